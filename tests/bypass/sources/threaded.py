"""Makes the socket in a thread of somebody who may call, and calls from a thread of its own in the same process."""

from corpus import EVERY

PATHS = EVERY


def source(scene):
    scene.enter("pool")
    scene.enter(f"pool/{scene.helper}")
    sock = scene.in_thread(scene.socket)
    scene.enter(f"pool/{scene.caller}")
    return sock
