"""Listens on the vault's port beside the vault (SO_REUSEPORT), and waits for its share of those that call."""

import socket

from corpus import EVERY, GROUP, SILENT

PATHS = EVERY
RECORDS = "many"
DRAWN = "which of the two sockets is asked, the kernel draws for each call"
SOURCE = "client"


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((scene.any, GROUP))
        if scene.proto == "tcp":
            sock.listen()
        channel.send(b"bound")
        channel.recv(1)

    scene.channel = scene.role("vault", vault)
    scene.channel.recv(16)
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((scene.any, GROUP))
    return scene.intercept(sock, GROUP, times=24)
