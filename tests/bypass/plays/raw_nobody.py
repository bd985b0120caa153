"""Opens a raw socket without the capability for it."""

import socket

from corpus import SILENT

PATHS = ["v4/udp", "v6/udp"]
BARE = "the kernel asks for CAP_NET_RAW"
CONTROL = BARE


def attempt(scene):
    with scene.judge("socket"):
        socket.socket(scene.af, socket.SOCK_RAW, socket.IPPROTO_UDP)
    return SILENT
