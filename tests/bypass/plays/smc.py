"""Calls over AF_SMC, which makes a TCP connection of its own inside the kernel."""

import socket

from corpus import SILENT, Absent, raw_connect, raw_in, raw_in6

PATHS = ["v4/tcp", "v6/tcp"]


def attempt(scene):
    try:
        sock = socket.socket(43, socket.SOCK_STREAM, 0 if scene.family == "v4" else 1)
    except OSError as error:
        if error.errno in (93, 97):
            raise Absent("no SMC") from error
        raise
    address = raw_in(scene.loopback, scene.port) if scene.family == "v4" else raw_in6(scene.loopback, scene.port)
    sock.setblocking(False)
    with scene.judge("connect"):
        try:
            raw_connect(sock, address)
        except BlockingIOError:
            # It has begun.
            pass
    return scene.say(sock) if scene.finish(sock) else SILENT
