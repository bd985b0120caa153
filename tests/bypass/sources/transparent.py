"""Sends in the name of another host (IP_TRANSPARENT)."""

import socket

from corpus import IP_TRANSPARENT, IPV6_TRANSPARENT, UDP, V6

PATHS = UDP
NEEDS = ("CAP_NET_ADMIN",)
ONEWAY = "the vault's answer goes to that host"


def source(scene):
    sock = scene.socket()
    if scene.family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.bind((scene.host("203.0.113.7", "2001:db8::7"), 0))
    return sock
