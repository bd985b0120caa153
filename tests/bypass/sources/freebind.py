"""Binds an address that is no host's yet (IP_FREEBIND), for which no capability is asked."""

import socket

from corpus import IP_FREEBIND

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]
BARE = "the kernel sends nothing in the name of an address that it does not have"
CONTROL = BARE


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((scene.host("203.0.113.7", None), 0))
    return sock
