"""Writes a fragment that is not the first and never has one."""

from corpus import datagram, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
BARE = "a fragment without a first is never delivered"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    return scene.write(v4_packet("127.0.0.1", "127.0.0.1", 17, datagram(scene), b"", 1))
