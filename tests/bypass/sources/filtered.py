"""Bears a filter of its own that takes every packet (SO_ATTACH_FILTER), which runs where the enforcer's does."""

import ctypes
import socket
import struct

from corpus import EVERY

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFFFFFF))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program)))
    return sock
