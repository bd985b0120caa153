"""Sends from the port of somebody whom the vault has just answered there, and may call there."""

import select

from corpus import NOTICES, UDP

PATHS = UDP


def source(scene):
    def asker(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, NOTICES))
        sock.sendto(b"question", (scene.loopback, scene.port))
        channel.send(b"heard" if scene.ready(sock, select.POLLIN, 1) else b"silence")

    scene.channel = scene.role(scene.helper, asker)
    if scene.channel.recv(16) != b"heard":
        raise RuntimeError("the vault does not answer somebody who may ask")
    scene.leave(scene.pids[-1])
    sock = scene.socket()
    sock.bind((scene.loopback, NOTICES))
    return sock
