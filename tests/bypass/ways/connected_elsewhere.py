"""Connects a datagram socket to somebody that may be called, and names the vault with the datagram."""

from corpus import PROXY, UDP

PATHS = UDP
# The socket that sent it is connected to somebody else, so where the packet arrives none is found.
SOURCE = "unknown"
CONTROL = "a datagram to another address than the connected one is refused: README names it"


def call(scene, sock):
    scene.connect(sock, (scene.loopback, PROXY))
    with scene.judge("sendto"):
        sock.sendto(scene.token, scene.to())
    return scene.hear(sock)
