"""Connects to a port that the vault is connecting from, so that two callers meet and nobody has listened."""

import errno
import socket

from corpus import ANSWERED, ASKING, NOTICES, SILENT, TCP

PATHS = TCP


def attempt(scene):
    # A listener whose queue is full lets the vault's SYN wait unanswered.
    full = scene.socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    full.bind((scene.loopback, NOTICES))
    full.listen(0)
    filler = scene.socket()
    filler.setblocking(False)
    filler.connect_ex((scene.loopback, NOTICES))

    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((scene.loopback, ASKING))
        sock.setblocking(False)
        channel.send(str(sock.connect_ex((scene.loopback, NOTICES))).encode())
        channel.recv(1)
        channel.send(b"token" if scene.finish(sock) else b"none")

    scene.channel = scene.role("vault", vault)
    began = int(scene.channel.recv(16))
    assert began == errno.EINPROGRESS, errno.errorcode.get(began, began)
    full.close()
    filler.close()
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((scene.loopback, NOTICES))
    there = scene.connect(sock, (scene.loopback, ASKING))
    return ANSWERED if there else SILENT
