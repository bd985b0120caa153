"""Sends to a group, which it may, in the name of another host that may call the vault (IPV6_FREEBIND): it hears it elsewhere."""

import socket

import listener
from corpus import IPV6_FREEBIND, MULTICAST6, PARTNER6, PORT

PATHS = ["v6/udp"]
SOURCE = ("unknown", "world")
CONTROL = "nobody may send to another host in the name of a third one"


def stage(scene):
    # It is root's, who alone may go there.
    scene.vault = listener.elsewhere(scene, MULTICAST6, PORT)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    # This host is not to hear it too.
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    sock.bind((PARTNER6, 0))
    with scene.judge("sendto"):
        sock.sendto(scene.token, (MULTICAST6, PORT, 0, socket.if_nametoindex("near")))
    return listener.end(scene, scene.vault)
