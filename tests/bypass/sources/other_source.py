"""Sends from an address of the loopback network that is nobody's in particular."""

from corpus import EVERY

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]


def source(scene):
    sock = scene.socket()
    sock.bind((scene.host("127.1.2.3", None), 0))
    return sock
