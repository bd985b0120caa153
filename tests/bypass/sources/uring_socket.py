"""Makes the socket by IORING_OP_SOCKET, without a call of socket(2)."""

import socket

from corpus import EVERY, Absent
from uring import OP_SOCKET, Ring, check

PATHS = EVERY


def source(scene):
    ring = Ring()
    ring.push(OP_SOCKET, int(scene.af), 0, offset=int(scene.kind))
    (fd,) = ring.submit(scene, 1)
    if fd == -22:
        raise Absent("no IORING_OP_SOCKET")
    return socket.socket(fileno=check(fd))
