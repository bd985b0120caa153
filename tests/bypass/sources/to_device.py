"""Binds the socket to the loopback device, where a look-up that knows no device finds nobody."""

import socket

from corpus import EVERY

PATHS = EVERY
CONTROL = "a call from a socket that is bound to a device is refused: README names it"


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    return sock
