"""Sends segments too small to hold anything whole (TCP_MAXSEG, no Nagle)."""

import socket

from corpus import TCP

PATHS = TCP


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
