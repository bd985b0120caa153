"""Calls the host's own address on a cable, not the loopback."""

from corpus import EVERY, NEAR, NEAR6

PATHS = EVERY


def address(scene, port):
    return (scene.host(NEAR, NEAR6), port)
