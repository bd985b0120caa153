"""Binds port 0 where the only port to choose from is one that the vault reserves (IP_LOCAL_PORT_RANGE)."""

import socket

from corpus import EPHEMERAL, EVERY, Absent

PATHS = EVERY
CONTROL = "the port is the vault's alone"


def attempt(scene):
    sock = scene.socket()
    try:
        sock.setsockopt(socket.IPPROTO_IP, 51, EPHEMERAL << 16 | EPHEMERAL)
    except OSError as error:
        raise Absent("no IP_LOCAL_PORT_RANGE") from error
    with scene.judge("bind"):
        sock.bind((scene.loopback, 0))
    return scene.intercept(sock, EPHEMERAL)
