"""Puts destination options before the ports, which a parser that looks for TCP at once takes for another protocol."""

import socket

from corpus import extension

PATHS = ["v6/tcp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, extension(0))
    return sock
