"""Calls by a socket that somebody who may call has accepted and passed on."""

from corpus import TCP, pass_fd, take_fd

PATHS = TCP


def source(scene):
    scene.channel = scene.role(scene.helper, lambda channel: pass_fd(channel, scene.accepted()))
    return take_fd(scene.channel)
