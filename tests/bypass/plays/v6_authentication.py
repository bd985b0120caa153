"""Writes a packet with an authentication header, which counts its length in other units."""

import struct

from corpus import datagram, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
BARE = "this kernel has no IPsec"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = struct.pack("!BBHII", 17, 1, 0, 7, 1) + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 51, payload))
