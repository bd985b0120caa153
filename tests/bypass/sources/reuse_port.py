"""Shares its source port with somebody who may call (SO_REUSEPORT), so that a look-up may find the other."""

import socket

from corpus import EVERY, SHARED

PATHS = EVERY


def source(scene):
    def sharer(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((scene.loopback, SHARED + 1000))
        if scene.proto == "tcp":
            sock.listen()
        channel.send(b"bound")
        channel.recv(1)

    scene.channel = scene.role(scene.helper, sharer)
    scene.channel.recv(16)
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((scene.loopback, SHARED + 1000))
    return sock
