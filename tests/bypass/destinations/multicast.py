"""Sends to a group that the vault has joined."""

from corpus import MULTICAST, MULTICAST6, UDP

PATHS = UDP


def address(scene, port):
    return (scene.host(MULTICAST, MULTICAST6), port)
