"""Sends with MSG_ZEROCOPY, so that the bytes are read after the call has returned."""

import socket

from corpus import EVERY, MSG_ZEROCOPY, SILENT

PATHS = EVERY


def call(scene, sock):
    sock.setsockopt(socket.SOL_SOCKET, 60, 1)
    if not scene.connect(sock):
        return SILENT
    with scene.judge("send"):
        sock.send(scene.token, MSG_ZEROCOPY)
    return scene.hear(sock)
