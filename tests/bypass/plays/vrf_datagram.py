"""Sends from a socket of a VRF, which is a routing table and a name of its own for the same addresses."""

import socket

from corpus import make_vrf

PATHS = ["v4/udp"]
HERE = "100.67.0.1"
CONTROL = "a call to a socket that is bound to a device is refused: README names it"


def stage(scene):
    make_vrf(HERE)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"red")
    return scene.send(sock, (HERE, scene.port))
