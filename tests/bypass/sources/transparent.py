"""Binds the address of another host (IP_TRANSPARENT), from which the kernel then lets it send."""

import socket

from corpus import EVERY, FAR, FAR6, IP_TRANSPARENT, IPV6_TRANSPARENT, V6

PATHS = EVERY
NEEDS = ("CAP_NET_ADMIN",)


def source(scene):
    sock = scene.socket()
    if scene.family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.bind((scene.host(FAR, FAR6), 0))
    return sock
