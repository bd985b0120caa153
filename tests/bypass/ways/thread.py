"""Calls from a thread, whose id is not the process's."""

import threading

from corpus import EVERY

PATHS = EVERY


def call(scene, sock):
    return scene.in_thread(lambda: scene.talk(sock))
