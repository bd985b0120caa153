"""Opens a raw socket of a protocol that nobody has heard of."""

import socket

PATHS = ["v4/udp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
BARE = "the vault hears no such protocol"
CONTROL = "a declared service may open no raw socket"


def attempt(scene):
    with scene.judge("socket"):
        sock = socket.socket(scene.af, socket.SOCK_RAW, 253)
    return scene.inject(sock, scene.token)
