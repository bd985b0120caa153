"""Writes a whole IPv4 packet by a raw socket, whose sender is no socket at all."""

from corpus import datagram, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    return scene.write(v4_packet("127.0.0.1", "127.0.0.1", 17, datagram(scene)))
