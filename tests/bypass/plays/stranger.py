"""Calls as a process that is no declared service, in the most ordinary way."""

from corpus import EVERY

PATHS = EVERY
CALLER = "stranger"


def attempt(scene):
    return scene.call(scene.socket())
