"""Connects by connect(2) and sends: the way that everything else is measured against."""

from corpus import EVERY

PATHS = EVERY


def call(scene, sock):
    return scene.talk(sock)
