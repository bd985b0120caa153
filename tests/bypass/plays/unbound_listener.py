"""Listens without ever having bound, so that no hook has seen whose the listener is, and waits for those that call."""

from corpus import TCP

PATHS = TCP
SOURCE = "client"


def attempt(scene):
    sock = scene.socket()
    sock.listen()
    return scene.intercept(sock, sock.getsockname()[1])
