"""Defers the SYN to the first write by TCP_FASTOPEN_CONNECT, after a connect(2) that sends nothing."""

import socket

from corpus import SILENT, TCP, TCP_FASTOPEN_CONNECT

PATHS = TCP


def call(scene, sock):
    sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    sock.setblocking(False)
    with scene.judge("connect"):
        sock.connect_ex(scene.to())
    with scene.judge("send"):
        try:
            sock.send(scene.token)
        except BlockingIOError:
            if not scene.finish(sock):
                return SILENT
            sock.send(scene.token)
    return scene.hear(sock)
