"""Sends bytes in an echo request to another host than the one that it may ask for an echo, by a socket that is not connected."""

import socket

import outside
from corpus import ANSWERED, BEYOND, BEYOND6, FAR, FAR6

PATHS = ["v4/udp", "v6/udp"]
CALLER = "prober"
CONTROL = "no rule names that host for an echo"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    protocol = socket.IPPROTO_ICMP if scene.family == "v4" else socket.IPPROTO_ICMPV6
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_DGRAM, protocol)
    request = bytes([8 if scene.family == "v4" else 128, 0, 0, 0, 0, 0, 0, 1])
    if scene.caller == CALLER:
        sock.sendto(request + b"question", (scene.host(BEYOND, BEYOND6), 0))
        if outside.hear(scene, b"question") != ANSWERED:
            raise RuntimeError("whom it may ask hears nothing")
    with scene.judge("sendto"):
        sock.sendto(request + scene.token, (scene.host(FAR, FAR6), 0))
    return outside.hear(scene, scene.token)
