"""Calls a second address of the host's, which was given to a dummy of a device."""

from corpus import EVERY

PATHS = EVERY


def address(scene, port):
    return (scene.host("100.65.0.1", "fd00:8::1"), port)
