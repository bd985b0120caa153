"""Has TCP_REPAIR declare the connection established without a handshake."""

import socket

from corpus import SILENT, TCP

PATHS = TCP
NEEDS = ("CAP_NET_ADMIN",)
BARE = "the vault knows nothing of the connection and resets it"
CONTROL = BARE


def call(scene, sock):
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)
    if not scene.connect(sock):
        return SILENT
    sock.setsockopt(socket.IPPROTO_TCP, 19, 0)
    return scene.say(sock)
