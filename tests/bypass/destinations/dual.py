"""Calls a listener that takes both families, over the one it was not bound for."""

from corpus import DUAL, EVERY

PATHS = EVERY


def address(scene, port):
    return (scene.loopback, DUAL)
