"""Puts an option that nobody has heard of into the header."""

import socket

PATHS = ["v4/tcp", "v4/udp"]
NEEDS = ("CAP_NET_RAW",)


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x9e\4\0\0")
    return sock
