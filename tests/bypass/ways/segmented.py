"""Has the kernel cut one datagram into many (UDP_SEGMENT), of which a hook might see only one."""

import socket

from corpus import UDP

PATHS = UDP
DATAGRAMS = 10


def call(scene, sock):
    sock.setsockopt(socket.IPPROTO_UDP, 103, 100)
    return scene.send(sock, data=scene.token.ljust(1000, b"."))
