"""Binds a port that the vault reserves and does not hold at the moment."""

from corpus import EVERY, RESERVED

PATHS = EVERY
CONTROL = "the port is the vault's alone"


def attempt(scene):
    sock = scene.socket()
    with scene.judge("bind"):
        sock.bind((scene.loopback, RESERVED))
    return scene.intercept(sock, RESERVED)
