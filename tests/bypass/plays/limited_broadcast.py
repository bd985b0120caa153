"""Sends to 255.255.255.255, which it may send to, and which is of no network in particular."""

import socket

PATHS = ["v4/udp", "mapped/udp"]


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return scene.send(sock, (scene.host("255.255.255.255", None), scene.port))
