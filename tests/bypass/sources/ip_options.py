"""Puts options into the IPv4 header, so that the ports are not where a short parser looks for them."""

import socket

PATHS = ["v4/tcp", "v4/udp"]


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\1" * 39 + b"\0")
    return sock
