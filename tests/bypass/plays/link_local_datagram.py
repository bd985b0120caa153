"""Sends to the host's own link-local address, which is another one on each cable."""

import socket

from corpus import LINK_LOCAL

PATHS = ["v6/udp"]


def attempt(scene):
    return scene.send(scene.socket(), (LINK_LOCAL, scene.port, 0, socket.if_nametoindex("near")))
