"""Binds an address but no port (IP_BIND_ADDRESS_NO_PORT), so that the port is chosen after the hook has run."""

import socket

from corpus import IP_BIND_ADDRESS_NO_PORT

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp", "v6/tcp", "v6/udp"]


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((scene.loopback, 0))
    return sock
