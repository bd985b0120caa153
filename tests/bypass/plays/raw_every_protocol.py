"""Opens a raw socket for every protocol number that there is, and sends by those that it gets."""

import socket

from corpus import SILENT, udp_header

PATHS = ["v4/udp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
RECORDS = "many"
CONTROL = "a declared service may open no raw socket"


def attempt(scene):
    datagram = udp_header(scene.loopback, scene.loopback, 4444, scene.port, scene.token)
    refused = None
    for protocol in range(1, 256):
        with scene.judge("socket"):
            try:
                sock = socket.socket(scene.af, socket.SOCK_RAW, protocol)
            except OSError as error:
                refused = error
                continue
        if protocol == socket.IPPROTO_UDP:
            scene.inject(sock, datagram)
        sock.close()
    if refused:
        raise refused
    return SILENT
