"""Has every host on the way write the time into the header."""

import socket

PATHS = ["v4/tcp", "v4/udp"]


def source(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x44\x0c\5\0" + bytes(8))
    return sock
