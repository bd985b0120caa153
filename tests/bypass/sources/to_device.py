"""Binds the socket to the loopback device, where a look-up that names no device does not find it."""

import socket

from corpus import EVERY

PATHS = EVERY
ALONE = "an answer to a socket that is bound to a device is not found, unless it comes from the very address that was called"


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    return sock
