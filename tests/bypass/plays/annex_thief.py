"""Calls from a network namespace that a cable leads to, where the vault's address is another host's."""

from corpus import CLONE_NEWNET, NEAR, NEAR6, called, libc

PATHS = ["v4/tcp", "v6/tcp", "v4/udp", "v6/udp"]


def stage(scene):
    called(libc.setns(scene.namespaces["annex"], CLONE_NEWNET), "setns")


def attempt(scene):
    sock = scene.socket()
    to = (scene.host(NEAR, NEAR6), scene.port)
    return scene.talk(sock, to) if scene.proto == "tcp" else scene.send(sock, to)
