"""Makes a user and a network namespace, where it may open raw sockets, and sends to the vault's address."""

import socket

from corpus import CLONE_NEWNET, CLONE_NEWUSER, called, libc, udp_header

PATHS = ["v4/udp", "v6/udp"]
BARE = "nothing leads out of a new network namespace"
CONTROL = BARE


def attempt(scene):
    called(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare")
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_RAW, socket.IPPROTO_UDP)
    return scene.inject(sock, udp_header(scene.loopback, scene.loopback, 4444, scene.port, scene.token))
