"""Writes a packet that is a fragment and the whole at once."""

from corpus import datagram, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = b"\x11\0\0\0\0\0\0\7" + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 44, payload))
