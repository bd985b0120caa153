"""Makes and binds the listener in the vault's own cgroup, and moves into its own before it listens."""

import socket

from corpus import EVERY, GROUP

PATHS = EVERY
OPEN = "handed-over-socket: a socket that the vault has made and bound is the vault's, and goes where its owner goes"


def attempt(scene):
    scene.enter("vault")
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(scene.proto == "tcp"))
    sock.bind((scene.any, GROUP + 2))
    scene.enter(scene.caller)
    return scene.intercept(sock, GROUP + 2)
