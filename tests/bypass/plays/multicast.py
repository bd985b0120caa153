"""Sends to a group that it may send to, in which the vault is."""

import socket

from corpus import MULTICAST, MULTICAST6

PATHS = ["v4/udp", "v6/udp"]


def attempt(scene):
    sock = scene.socket()
    group = scene.host(MULTICAST, MULTICAST6)
    if scene.family == "v6":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("near"))
    return scene.send(sock, (group, scene.port))
