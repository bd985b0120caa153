"""Asks a proxy that it may call, and that may call the vault."""

import socket

from corpus import EVERY, PROXY

PATHS = EVERY
OPEN = "proxy: a proxy in user space calls in its own name"


def attempt(scene):
    scene.patience = max(scene.patience, 2)
    return scene.talk(scene.socket(), (scene.loopback, PROXY + 1))
