"""Sends to the host's own link-local address, which is another one on each cable."""

import socket

from corpus import LINK_LOCAL

PATHS = ["v6/udp"]


def address(scene, port):
    return (LINK_LOCAL, port, 0, socket.if_nametoindex("near"))
