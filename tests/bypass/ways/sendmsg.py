"""Sends a datagram by sendmsg(2) in two pieces."""

from corpus import UDP

PATHS = UDP


def call(scene, sock):
    half = len(scene.token) // 2
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token[:half], scene.token[half:]], [], 0, scene.to())
    return scene.hear(sock)
