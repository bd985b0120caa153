"""Sends from a socket of a VRF, which is a routing table and a name of its own for the same addresses."""

import socket

from corpus import IN_VRF, VRF, need_vrf

PATHS = ["v4/udp"]
ONEWAY = "not every kernel leads the answer back into the VRF"


def attempt(scene):
    need_vrf()
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, VRF.encode())
    return scene.send(sock, (IN_VRF, scene.port))
