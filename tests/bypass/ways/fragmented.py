"""Sends a datagram of many fragments, of which only the first has ports."""

from corpus import UDP

PATHS = UDP


def call(scene, sock):
    return scene.send(sock, data=scene.token.ljust(6000, b"."))
