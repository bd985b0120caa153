"""Sends eight datagrams with one call, the first of which is permitted, so that the call as a whole succeeds."""

import ctypes
import struct

from corpus import PROXY, UDP, called, libc
from uring import sockaddr

PATHS = UDP
CONTROL = "the answer to the first datagram is not the vault's"


def call(scene, sock):
    addresses = [ctypes.create_string_buffer(sockaddr(sock, to)) for to in [(scene.loopback, PROXY)] + [scene.to()] * 7]
    token = ctypes.create_string_buffer(scene.token, len(scene.token))
    piece = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(token), len(scene.token)))
    headers = b"".join(
        struct.pack("=QIIQQQQQQ", ctypes.addressof(to), len(to) - 1, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0)
        for to in addresses
    )
    with scene.judge("sendmmsg"):
        sent = called(libc.sendmmsg(sock.fileno(), headers, 8, 0), "sendmmsg")
        # The kernel keeps the error of the second for the next call.
        if sent < 8:
            called(libc.sendmmsg(sock.fileno(), headers[64:], 7, 0), "sendmmsg")
    return scene.hear(sock)
