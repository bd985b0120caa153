"""Takes over the vault's own listening socket, and answers in its place."""

import socket

from corpus import ASKING, TCP, pass_fd, take_fd

PATHS = TCP
OPEN = "handed-over-socket: whoever hands a listener to another lets it answer"


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((scene.any, ASKING + 1))
        sock.listen()
        pass_fd(channel, sock)
        channel.recv(1)

    scene.channel = scene.role("vault", vault)
    listener = take_fd(scene.channel)
    return scene.intercept(listener, ASKING + 1)
