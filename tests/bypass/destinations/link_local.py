"""Calls the host's own link-local address, which means something only with a device."""

import socket

from corpus import LINK_LOCAL

PATHS = ["v6/tcp", "v6/udp"]
CONTROL = "the host's own link-local address is not found among its own: README names it"


def address(scene, port):
    return (LINK_LOCAL, port, 0, socket.if_nametoindex("near"))
