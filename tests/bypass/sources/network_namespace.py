"""Makes a socket, and goes into a network namespace of its own, where the vault's listener cannot be looked up."""

from corpus import CLONE_NEWNET, CLONE_NEWUSER, EVERY, called, libc

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare")
    return sock
