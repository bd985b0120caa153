"""Puts a label of the basic security option into the header."""

import socket

PATHS = ["v4/tcp", "v4/udp"]
NEEDS = ("CAP_NET_RAW",)


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x82\x0b" + bytes(9) + b"\0")
    return sock
