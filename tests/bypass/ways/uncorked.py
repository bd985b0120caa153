"""Corks a datagram to the vault, and lets a later piece, which is addressed elsewhere, send it."""

import socket

from corpus import PROXY, UDP

PATHS = UDP


def call(scene, sock):
    with scene.judge("sendto"):
        sock.sendto(scene.token, socket.MSG_MORE, scene.to())
    sock.sendto(b"end", (scene.loopback, PROXY))
    return scene.hear(sock)
