"""Connects, and has sendfile(2) fill the socket: no buffer of the caller's is ever sent."""

import os

from corpus import EVERY, SILENT

PATHS = EVERY


def call(scene, sock):
    if not scene.connect(sock):
        return SILENT
    file = os.memfd_create("token")
    os.write(file, scene.token)
    with scene.judge("sendfile"):
        os.sendfile(sock.fileno(), file, 0, len(scene.token))
    return scene.hear(sock)
