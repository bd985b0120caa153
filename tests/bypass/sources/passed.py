"""Takes over a socket of somebody who may call, before it is connected."""

from corpus import EVERY, pass_fd, take_fd

PATHS = EVERY


def source(scene):
    channel = scene.role(scene.helper, lambda channel: pass_fd(channel, scene.socket()))
    scene.channel = channel
    return take_fd(channel)
