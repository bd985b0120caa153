"""Binds the vault's port after the vault has crashed, and waits for those that call it."""

import socket

from corpus import EVERY, TAKEN

PATHS = EVERY
SOURCE = "client"


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(scene.proto == "tcp"))
        sock.bind((scene.any, TAKEN))
        channel.send(b"bound")
        channel.recv(1)

    channel = scene.role("vault", vault)
    channel.recv(16)
    scene.leave(scene.pids[-1])
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(scene.proto == "tcp"))
    sock.bind((scene.any, TAKEN))
    return scene.intercept(sock, TAKEN)
