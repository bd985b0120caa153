"""Names the device that packets leave by (IP_UNICAST_IF), without binding the socket to it."""

import socket
import struct

from corpus import EVERY, IP_UNICAST_IF, IPV6_UNICAST_IF, V6

PATHS = EVERY


def source(scene):
    sock = scene.socket()
    index = struct.pack("!I", 1)
    if scene.family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_IF, index)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, index)
    return sock
