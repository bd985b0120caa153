"""Writes a whole IPv6 packet by a raw socket, whose sender is no socket at all."""

from corpus import datagram, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = datagram(scene)
    return scene.write(v6_packet("::1", "::1", 17, payload))
