"""Binds an address that is not the host's (IP_FREEBIND), to be taken for another host."""

import socket

from corpus import IP_FREEBIND, IPV6_FREEBIND, V6

PATHS = ["v4/udp", "v6/udp", "mapped/udp", "v4/tcp", "v6/tcp", "mapped/tcp"]


def source(scene):
    sock = scene.socket()
    if scene.family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((scene.host("203.0.113.7", "fd00:66::7"), 0))
    return sock
