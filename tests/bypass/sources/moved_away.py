"""Makes the socket, and moves into the cgroup of somebody who may call before it calls."""

from corpus import EVERY

PATHS = EVERY
SOURCE = "caller"


def source(scene):
    sock = scene.socket()
    scene.enter(scene.helper)
    return sock
