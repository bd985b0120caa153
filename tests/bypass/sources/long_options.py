"""Puts the longest destination options there are before the ports: two kilobytes, more than a parser may copy."""

import socket
import struct

PATHS = ["v6/tcp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)


def source(scene):
    sock = scene.socket()
    pads = b"".join(struct.pack("!BB", 1, 255) + bytes(255) for _ in range(3)) + b"\1\xfb" + bytes(251)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, struct.pack("!BB", 0, 127) + pads)
    return sock
