"""Writes a packet whose destination options name another home address, which would replace the sender's."""

import socket
import struct

from corpus import datagram, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
BARE = "this kernel has no Mobile IPv6"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = struct.pack("!BB", 17, 2) + b"\1\2\0\0" + b"\xc9\x10" + socket.inet_pton(socket.AF_INET6, "fd00:7::1") + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 60, payload))
