"""Sends in the name of another host (IPV6_FREEBIND), for which IPv6 asks no capability."""

import socket

from corpus import IPV6_FREEBIND

PATHS = ["v6/udp"]
ONEWAY = "the vault's answer goes to that host"


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    sock.bind(("2001:db8::7", 0))
    return sock
