"""Calls over DCCP, which hardly anybody remembers."""

import socket

from corpus import Absent, IPPROTO_DCCP, SOCK_DCCP

PATHS = ["v4/tcp", "v6/tcp"]
CONTROL = "DCCP between two services of one host is refused: README names it"


def attempt(scene):
    try:
        sock = socket.socket(scene.af, SOCK_DCCP, IPPROTO_DCCP)
    except OSError as error:
        if error.errno in (93, 94):
            raise Absent("no DCCP") from error
        raise
    return scene.talk(sock)
