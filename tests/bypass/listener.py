"""A vault of an attempt's own, where and when the attempt needs one."""

import select
import socket

from corpus import ANSWERED, SILENT


def start(scene, host, port):
    """Has the vault listen there, until this attempt ends."""

    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(scene.proto == "tcp"))
        sock.bind((host, port))
        if scene.proto == "tcp":
            sock.listen()
        tell(scene, channel, sock)

    return await_ready(scene.role("vault", vault))


def tell(scene, channel, sock):
    """The vault's part: says that it is ready, and when it is asked, what it has got until then."""
    channel.send(b"ready")
    channel.recv(1)
    if scene.proto == "tcp":
        if not scene.ready(sock, select.POLLIN, 0):
            channel.send(b"none")
            return
        sock, _ = sock.accept()
    channel.send(scene.overheard(sock) or b"none")


def await_ready(channel):
    if channel.recv(16) != b"ready":
        raise RuntimeError("the vault does not listen")
    return channel


def end(scene, channel):
    """How the attempt ends: the vault got the token, or did not. A packet has arrived when the call that sent it returns."""
    channel.send(b"?")
    return ANSWERED if channel.recv(64) == scene.token else SILENT
