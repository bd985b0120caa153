"""Calls from a process namespace of its own, in which it is process 1."""

import os

from corpus import CLONE_NEWPID, CLONE_NEWUSER, EVERY, called, libc, true_pid

PATHS = EVERY


def source(scene):
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWPID), "unshare")
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    scene.pids.append(true_pid())
    return scene.socket()
