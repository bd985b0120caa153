"""Has every host on the way write its address into the header."""

import socket

PATHS = ["v4/tcp", "v4/udp"]


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\7\x27\4" + bytes(36) + b"\0")
    return sock
