"""Calls by a socket that has answered the vault before: what was noted of it when it was accepted may still be believed."""

from corpus import TCP

PATHS = TCP


def source(scene):
    return scene.accepted()
