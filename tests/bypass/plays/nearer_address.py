"""Binds the vault's port at one address, while the vault has it at every address: the kernel prefers the nearer one."""

import socket

from corpus import GROUP, UDP

PATHS = UDP
SOURCE = "client"


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((scene.any, GROUP + 1))
        channel.send(b"bound")
        channel.recv(1)

    scene.channel = scene.role("vault", vault)
    scene.channel.recv(16)
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((scene.loopback, GROUP + 1))
    return scene.intercept(sock, GROUP + 1)
