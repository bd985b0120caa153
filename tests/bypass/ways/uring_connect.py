"""Connects by IORING_OP_CONNECT: whatever watches system calls sees no connect(2)."""

from corpus import EVERY
from uring import OP_CONNECT, Ring

PATHS = EVERY


def call(scene, sock):
    return Ring().connect(scene, sock, OP_CONNECT)
