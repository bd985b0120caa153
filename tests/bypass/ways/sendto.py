"""Sends a datagram by sendto(2) from a socket that is not connected."""

from corpus import UDP

PATHS = UDP


def call(scene, sock):
    return scene.send(sock)
