"""Calls a port that the vault has bound and does not listen on yet."""

from corpus import BOUND, TCP

PATHS = TCP
BARE = "nobody listens"
CONTROL = BARE


def address(scene, port):
    return (scene.loopback, BOUND)
