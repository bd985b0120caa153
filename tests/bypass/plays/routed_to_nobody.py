"""Sends to a port of this host's at which nobody listens by way of another host (a routing header), which gets the packet first."""

import socket

import outside
import segments

PATHS = ["v6/udp"]
CONTROL = "a service's packets may carry no routing header"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments.first())
    with scene.judge("sendto"):
        sock.sendto(scene.token, ("::1", 9))
    return outside.hear(scene, scene.token)
