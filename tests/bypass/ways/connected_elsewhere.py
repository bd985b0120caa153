"""Connects a datagram socket to somebody that may be called, and names the vault with the datagram."""

from corpus import PROXY, UDP

PATHS = UDP
ONEWAY = "a connected socket hears nobody else"


def call(scene, sock):
    scene.connect(sock, (scene.loopback, PROXY))
    with scene.judge("sendto"):
        sock.sendto(scene.token, scene.to())
    return scene.hear(sock)
