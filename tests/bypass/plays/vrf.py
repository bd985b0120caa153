"""Calls from a socket of a VRF, which is a routing table and a name of its own for the same addresses."""

import socket

from corpus import make_vrf

PATHS = ["v4/tcp"]
HERE = "100.67.0.1"


def stage(scene):
    make_vrf(HERE)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"red")
    return scene.talk(sock, (HERE, scene.port))
