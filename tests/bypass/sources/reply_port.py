"""Sends from the port that the vault itself may call, so that it looks like an answer to a question."""

from corpus import NOTICES, UDP

PATHS = UDP


def source(scene):
    sock = scene.socket()
    sock.bind((scene.loopback, NOTICES))
    return sock
