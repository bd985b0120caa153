"""Connects a datagram socket to somebody that may be called, and then anew to the vault."""

from corpus import PROXY, UDP

PATHS = UDP


def call(scene, sock):
    scene.connect(sock, (scene.loopback, PROXY))
    return scene.talk(sock)
