"""Makes the socket in the cgroup of somebody who may call, and moves into its own before it calls."""

from corpus import EVERY

PATHS = EVERY


def source(scene):
    scene.enter(scene.helper)
    sock = scene.socket()
    scene.enter(scene.caller)
    return sock
