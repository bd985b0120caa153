"""Sends from the same port as somebody who may call, at an address of its own beside it."""

import socket

from corpus import SHARED

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]


def source(scene):
    def sharer(channel):
        sock = scene.socket()
        sock.bind((scene.host("127.0.0.5", None), SHARED + 1100))
        if scene.proto == "tcp":
            sock.listen()
        channel.send(b"bound")
        channel.recv(1)

    scene.channel = scene.role(scene.helper, sharer)
    scene.channel.recv(16)
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((scene.host("127.0.0.6", None), SHARED + 1100))
    return sock
