"""Writes a datagram by a raw socket in the name of a socket of somebody who may call; the forger is no declared service."""

import socket

from corpus import udp_header, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
OPEN = "CAP_NET_RAW lets a process that is no declared service forge any sender by a raw socket"


def attempt(scene):
    def named(channel):
        sock = scene.socket()
        sock.bind(("127.0.0.1", 0))
        channel.send(str(sock.getsockname()[1]).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, named)
    port = int(scene.channel.recv(16))
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    datagram = udp_header("127.0.0.1", "127.0.0.1", port, scene.port, scene.token)
    return scene.inject(sock, v4_packet("127.0.0.1", "127.0.0.1", 17, datagram))
