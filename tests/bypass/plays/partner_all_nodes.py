"""Sends to all on a cable in the name of another host that may call the vault (IPV6_FREEBIND), as no declared service."""

import socket

import listener
from corpus import IPV6_FREEBIND, PARTNER6, PORT

PATHS = ["v6/udp"]
CALLER = "stranger"
SOURCE = ("unknown", "world")
CONTROL = "nobody may send to another host in the name of a third one"
ALL_NODES = "ff02::1"


def stage(scene):
    # It is root's, who alone may go there.
    scene.vault = listener.elsewhere(scene, ALL_NODES, PORT)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    # This host is not to hear it too.
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    sock.bind((PARTNER6, 0))
    with scene.judge("sendto"):
        sock.sendto(scene.token, (ALL_NODES, PORT, 0, socket.if_nametoindex("near")))
    return listener.end(scene, scene.vault)
