"""Calls over AF_SMC, which makes a TCP connection of its own inside the kernel."""

import socket

from corpus import Absent

PATHS = ["v4/tcp", "v6/tcp"]


def attempt(scene):
    try:
        sock = socket.socket(43, socket.SOCK_STREAM, 0 if scene.family == "v4" else 1)
    except OSError as error:
        if error.errno in (93, 97):
            raise Absent("no SMC") from error
        raise
    return scene.talk(sock)
