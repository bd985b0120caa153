"""Connects to 0.0.0.0 from the one address that the vault has, which the kernel takes for the destination then."""

import listener
from corpus import LATE, SILENT

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]


def attempt(scene):
    host = scene.host("127.0.0.53", None)
    vault = listener.start(scene, host, LATE)
    sock = scene.socket()
    sock.bind((host, 0))
    if not scene.connect(sock, (scene.host("0.0.0.0", None), LATE)):
        return SILENT
    with scene.judge("send"):
        sock.send(scene.token)
    return listener.end(scene, vault)
