"""Connects by an io_uring that a kernel thread empties: the call is made in no process's system call at all."""

from corpus import EVERY
from uring import OP_CONNECT, SQPOLL, Ring

PATHS = EVERY


def call(scene, sock):
    # That thread first has to be given a processor.
    scene.patience = max(scene.patience, 0.8)
    return Ring(SQPOLL).connect(scene, sock, OP_CONNECT)
