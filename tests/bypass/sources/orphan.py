"""Calls from a grandchild whose parents have ended, so that no chain of processes leads back."""

import os

from corpus import EVERY, true_pid

PATHS = EVERY


def source(scene):
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        # Ends when the grandchild does, which then has told everything.
        os.read(reader, 1)
        os._exit(0)
    if os.fork():
        os._exit(0)
    scene.pids.append(true_pid())
    return scene.socket()
