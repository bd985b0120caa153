"""Asks every router on the way to look into the packet."""

import socket

PATHS = ["v4/tcp", "v4/udp"]


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\4\0\0")
    return sock
