"""Sends around the routing table (SO_DONTROUTE)."""

import socket

from corpus import EVERY

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    return sock
