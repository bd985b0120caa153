"""Sends eight datagrams with one call, of which a hook might judge only the first or the last."""

import ctypes
import struct

from corpus import UDP, called, libc
from uring import sockaddr

PATHS = UDP
DATAGRAMS = 8


def call(scene, sock):
    address = ctypes.create_string_buffer(sockaddr(sock, scene.to()))
    token = ctypes.create_string_buffer(scene.token, len(scene.token))
    piece = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(token), len(scene.token)))
    header = struct.pack(
        "=QIIQQQQQQ", ctypes.addressof(address), len(address) - 1, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0
    )
    with scene.judge("sendmmsg"):
        called(libc.sendmmsg(sock.fileno(), header * DATAGRAMS, DATAGRAMS, 0), "sendmmsg")
    return scene.hear(sock)
