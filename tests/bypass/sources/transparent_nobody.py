"""Binds the address of another host without the capability for it."""

import socket

from corpus import IP_TRANSPARENT, IPV6_TRANSPARENT, EVERY, V6

PATHS = EVERY
BARE = "the kernel asks for CAP_NET_ADMIN"
CONTROL = BARE


def source(scene):
    sock = scene.socket()
    with scene.judge("setsockopt"):
        if scene.family == V6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    return sock
