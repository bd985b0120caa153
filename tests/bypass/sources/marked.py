"""Marks its packets, by which a host may route them past everything else."""

import socket

from corpus import EVERY

PATHS = EVERY
NEEDS = ("CAP_NET_ADMIN",)


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
    return sock
