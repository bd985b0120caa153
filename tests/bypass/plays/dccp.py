"""Calls over DCCP, which hardly anybody remembers."""

import socket

from corpus import Absent

PATHS = ["v4/tcp", "v6/tcp"]
CONTROL = "DCCP between two services of one host is refused: README names it"


def attempt(scene):
    try:
        sock = socket.socket(scene.af, 6, 33)
    except OSError as error:
        if error.errno in (93, 94):
            raise Absent("no DCCP") from error
        raise
    return scene.talk(sock)
