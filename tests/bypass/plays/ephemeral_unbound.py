"""Gets a port that the vault reserves by sending from it, without a call of bind(2), and waits for those who call it."""

import select

from corpus import EPHEMERAL, KEPT_PORTS, PROXY, UDP

PATHS = UDP
SOURCE = "client"


def stage(scene):
    KEPT_PORTS.write_text("\n")


def attempt(scene):
    sock = scene.socket()
    scene.only(sock, EPHEMERAL)
    sock.sendto(b"question", (scene.loopback, PROXY))
    if not scene.ready(sock, select.POLLIN, 1):
        raise RuntimeError("nobody answers somebody who may ask")
    sock.recv(64)
    return scene.intercept(sock, EPHEMERAL)
