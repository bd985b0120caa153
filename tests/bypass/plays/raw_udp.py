"""Opens a raw socket for UDP, whose datagrams no sendmsg hook sees."""

import socket

from corpus import udp_header

PATHS = ["v4/udp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a declared service may open no raw socket"


def attempt(scene):
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_RAW, socket.IPPROTO_UDP)
    return scene.inject(sock, udp_header(scene.loopback, scene.loopback, 4444, scene.port, scene.token))
