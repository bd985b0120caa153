"""Corks a datagram to somebody that may be called, and adds to it a piece that is addressed to the vault."""

import socket

from corpus import PROXY, SILENT, UDP

PATHS = UDP
BARE = "a datagram that is corked keeps its first destination"
CONTROL = BARE


def call(scene, sock):
    sock.sendto(b"begin", socket.MSG_MORE, (scene.loopback, PROXY))
    with scene.judge("sendto"):
        sock.sendto(scene.token, scene.to())
    return SILENT
