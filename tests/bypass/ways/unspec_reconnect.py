"""Connects to somebody that may be called, dissolves that by AF_UNSPEC, and connects the same socket to the vault."""

from corpus import EVERY, PROXY, called, libc

PATHS = EVERY


def call(scene, sock):
    scene.connect(sock, (scene.loopback, PROXY))
    called(libc.connect(sock.fileno(), bytes(16), 16), "connect")
    return scene.talk(sock)
