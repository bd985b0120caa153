"""Connects a socket that the io_uring knows by a number of its own, and that is no longer in the table of files."""

from corpus import EVERY
from uring import FIXED_FILE, OP_CONNECT, Ring

PATHS = EVERY


def call(scene, sock):
    ring = Ring()
    ring.register(sock.fileno())
    return ring.connect(scene, sock, OP_CONNECT, fd=0, flags=FIXED_FILE)
