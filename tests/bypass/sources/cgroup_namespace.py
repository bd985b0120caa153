"""Makes a cgroup namespace, in which its own cgroup is the top of the tree."""

from corpus import CLONE_NEWCGROUP, CLONE_NEWUSER, EVERY, called, libc

PATHS = EVERY


def source(scene):
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWCGROUP), "unshare")
    return scene.socket()
