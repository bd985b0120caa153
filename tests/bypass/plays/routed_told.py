"""Names the way by another host with the datagram (a routing header as a control message), and not for the socket."""

import socket

import outside
import segments

PATHS = ["v6/udp"]
BARE = "by a control message the kernel takes no routing header of this kind"
CONTROL = BARE


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    sock = scene.socket()
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments.first())], 0, ("::1", 9))
    return outside.hear(scene, scene.token)
