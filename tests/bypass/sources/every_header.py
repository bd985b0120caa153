"""Puts a hop-by-hop header and destination options before the ports, one behind the other."""

import socket

from corpus import extension

PATHS = ["v6/tcp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)


def source(scene):
    sock = scene.socket()
    for kind in (socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS):
        sock.setsockopt(socket.IPPROTO_IPV6, kind, extension(0))
    return sock
