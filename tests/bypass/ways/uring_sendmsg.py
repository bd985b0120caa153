"""Sends a datagram by IORING_OP_SENDMSG, with an address that no system call was given."""

import struct

from corpus import UDP
from uring import OP_SENDMSG, Ring, check, sockaddr

PATHS = UDP


def call(scene, sock):
    ring = Ring()
    address = sockaddr(sock, scene.to())
    piece = struct.pack("=QQ", ring.hold(scene.token), len(scene.token))
    message = struct.pack("=QIIQQQQQ", ring.hold(address), len(address), 0, ring.hold(piece), 1, 0, 0, 0)
    ring.push(OP_SENDMSG, sock.fileno(), ring.hold(message), length=1)
    with scene.judge("io_uring_enter"):
        check(ring.submit(scene, 1)[0])
    return scene.hear(sock)
