"""Calls as a container of which no runtime has told yet whose it is."""

from corpus import EVERY

PATHS = EVERY
CALLER = "pending"


def attempt(scene):
    return scene.call(scene.socket())
