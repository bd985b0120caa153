"""Routes by the sender (a segment routing header), so that the packet is addressed to a hop and not to the vault."""

import socket
import struct

PATHS = ["v6/tcp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
BARE = "the loopback device takes part in no segment routing"
CONTROL = BARE


def source(scene):
    sock = scene.socket()
    hop = socket.inet_pton(socket.AF_INET6, "::1")
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + bytes(16) + hop)
    return sock
