"""Sends to the broadcast address of a cable, which it may send to, and which the vault hears too."""

import socket

from corpus import BROADCAST

PATHS = ["v4/udp", "mapped/udp"]
ONEWAY = "an answer to a broadcast is refused, since it comes from somebody who was not asked: README names it"


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return scene.send(sock, (scene.host(BROADCAST, None), scene.port))
