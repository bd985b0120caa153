"""Makes the socket, and moves into the cgroup of somebody who may call before it calls."""

from corpus import EVERY

PATHS = EVERY
# The task that calls is of the other service; whose the socket is, is judged where it arrives.
SOURCE = "helper"


def source(scene):
    sock = scene.socket()
    scene.enter(scene.helper)
    return sock
