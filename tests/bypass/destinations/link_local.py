"""Connects to the host's own link-local address, which is another one on each cable."""

import socket

from corpus import LINK_LOCAL

PATHS = ["v6/tcp"]
# Where the packet arrives the socket that sent it is not found either.
SOURCE = "unknown"
CONTROL = "a call to the host's own link-local address is refused: README names it"


def address(scene, port):
    return (LINK_LOCAL, port, 0, socket.if_nametoindex("near"))
