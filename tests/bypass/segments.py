"""A routing header that leads by another host (segment routing), for which no capability is asked."""

import socket
import struct

from corpus import FAR6


def first(host=FAR6):
    """Leads to this host first, and only then to where the packet is addressed, which the kernel fills in."""
    head = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0)
    return head + bytes(16) + socket.inet_pton(socket.AF_INET6, host)
