"""Sends from the host's address on a cable to the loopback, so that the two ends seem to be of two hosts."""

from corpus import EVERY, NEAR, NEAR6

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    sock.bind((scene.host(NEAR, NEAR6), 0))
    return sock
