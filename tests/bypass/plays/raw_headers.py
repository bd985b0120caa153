"""Opens a raw socket that takes whole packets, headers included."""

import socket

from corpus import udp_header, v4_packet, v6_packet

PATHS = ["v4/udp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a declared service may open no raw socket"


def attempt(scene):
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_RAW, socket.IPPROTO_RAW)
    datagram = udp_header(scene.loopback, scene.loopback, 4444, scene.port, scene.token)
    packet = (v4_packet if scene.family == "v4" else v6_packet)(scene.loopback, scene.loopback, 17, datagram)
    return scene.inject(sock, packet)
