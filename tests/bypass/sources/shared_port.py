"""Sends from an address and port that somebody who may call has too (SO_REUSEPORT)."""

import socket

from corpus import UDP

PATHS = UDP
LOTS = "where nobody judges the send, the kernel draws whose of the two it is taken for"
CONTROL = "nobody is let send from a port that another service's socket is drawn for"
ONEWAY = "which of the two sockets hears an answer, the kernel draws"


def source(scene):
    def sharer(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((scene.loopback, 0))
        channel.send(str(sock.getsockname()[1]).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, sharer)
    port = int(scene.channel.recv(16))
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((scene.loopback, port))
    return sock
