"""Opens a ping socket, which needs no capability and can carry bytes in echo requests."""

import socket

from corpus import SILENT

PATHS = ["v4/udp", "v6/udp"]
BARE = "the kernel answers an echo request, and not the vault"
CONTROL = BARE


def attempt(scene):
    protocol = socket.IPPROTO_ICMP if scene.family == "v4" else socket.IPPROTO_ICMPV6
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_DGRAM, protocol)
    kind = 8 if scene.family == "v4" else 128
    sock.sendto(bytes([kind, 0, 0, 0, 0, 0, 0, 1]) + scene.token, scene.to())
    return SILENT
