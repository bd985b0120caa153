"""Makes the socket in one process and calls from its child."""

import os

from corpus import EVERY, true_pid

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    scene.pids.append(true_pid())
    return sock
