"""Calls from a process namespace of its own, in which it is process 1."""

import os
import socket

from corpus import CLONE_NEWPID, CLONE_NEWUSER, EVERY, called, libc

PATHS = EVERY


def source(scene):
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWPID), "unshare")
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        # Which process it is in everybody else's eyes, only this one knows.
        ours.send(str(pid).encode())
        os.waitpid(pid, 0)
        os._exit(0)
    scene.pids.append(int(theirs.recv(16)))
    return scene.socket()
