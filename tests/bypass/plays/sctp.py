"""Calls over SCTP, whose packets no connect hook sees."""

import socket

from corpus import Absent

PATHS = ["v4/tcp", "v6/tcp"]
CONTROL = "SCTP between two services of one host is refused: README names it"


def attempt(scene):
    try:
        sock = socket.socket(scene.af, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    except OSError as error:
        if error.errno == 93:
            raise Absent("no SCTP") from error
        raise
    return scene.talk(sock)
