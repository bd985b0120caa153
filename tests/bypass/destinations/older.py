"""Calls sockets that were bound before there was an enforcer."""

from corpus import EVERY, OLD

PATHS = EVERY


def address(scene, port):
    return (scene.loopback, OLD)
