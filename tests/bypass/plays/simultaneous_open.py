"""Connects at the same moment as the vault does, each to the other's port, so that nobody listens and nobody accepts."""

import select
import socket

from corpus import ANSWERED, CROSSING, CROSSING_BACK, SILENT

PATHS = ["v4/tcp", "v6/tcp"]
SOURCE = "vault"


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((scene.loopback, CROSSING))
        channel.send(b"bound")
        channel.recv(16)
        sock.setblocking(False)
        sock.connect_ex((scene.loopback, CROSSING_BACK))
        channel.send(b"called")
        heard = sock.recv(64) if scene.ready(sock, select.POLLIN, 5) else b""
        channel.send(heard or b"none")
        channel.recv(1)

    channel = scene.role("vault", vault)
    channel.recv(16)
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((scene.loopback, CROSSING_BACK))
    sock.setblocking(False)
    # The host drops a first SYN to this port, so that nobody answers it by a reset.
    with scene.judge("connect"):
        sock.connect_ex((scene.loopback, CROSSING))
    channel.send(b"call")
    channel.recv(16)
    try:
        if not scene.finish(sock):
            return SILENT
        sock.send(scene.token)
    except ConnectionAbortedError:
        # The enforcer's look at live connections, which follows a change of policy, has come upon one that waits.
        return SILENT
    return ANSWERED if channel.recv(64) == scene.token else SILENT
