"""Sends to another host than the one that it may call over UDP-Lite, which is connected without a hook being asked."""

import socket

import outside
from corpus import ANSWERED, BEYOND, BEYOND6, FAR, FAR6, IPPROTO_UDPLITE, PORT, Absent

PATHS = ["v4/udp", "v6/udp"]
CALLER = "prober"
CONTROL = "no rule names that host for UDP-Lite"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    with scene.judge("socket"):
        try:
            sock = socket.socket(scene.af, socket.SOCK_DGRAM, IPPROTO_UDPLITE)
        except OSError as error:
            if error.errno == 93:
                raise Absent("no UDP-Lite") from error
            raise
    if scene.caller == CALLER:
        sock.connect((scene.host(BEYOND, BEYOND6), PORT))
        sock.send(b"question")
        if outside.hear(scene, b"question") != ANSWERED:
            raise RuntimeError("whom it may call hears nothing")
    with scene.judge("connect"):
        sock.connect((scene.host(FAR, FAR6), PORT))
    with scene.judge("send"):
        sock.send(scene.token)
    return outside.hear(scene, scene.token)
