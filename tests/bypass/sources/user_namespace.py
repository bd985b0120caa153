"""Makes a user namespace, in which it is root with every capability."""

from corpus import CLONE_NEWUSER, EVERY, called, libc

PATHS = EVERY


def source(scene):
    called(libc.unshare(CLONE_NEWUSER), "unshare")
    return scene.socket()
