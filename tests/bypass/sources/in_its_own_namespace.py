"""Calls from a socket of a network namespace of its own, where the vault's address is its own loopback."""

from corpus import CLONE_NEWNET, CLONE_NEWUSER, EVERY, called, libc

PATHS = EVERY
BARE = "nothing leads out of a new network namespace"
CONTROL = BARE


def source(scene):
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare")
    return scene.socket()
