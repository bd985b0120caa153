"""Sends to 0.0.0.0 from the one address that the vault has, which the kernel takes for the destination then."""

import listener
from corpus import LATE

PATHS = ["v4/udp", "mapped/udp"]


def attempt(scene):
    host = scene.host("127.0.0.53", None)
    vault = listener.start(scene, host, LATE)
    sock = scene.socket()
    sock.bind((host, 0))
    with scene.judge("sendto"):
        sock.sendto(scene.token, (scene.host("0.0.0.0", None), LATE))
    return listener.end(scene, vault)
