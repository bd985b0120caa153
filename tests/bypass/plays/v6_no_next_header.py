"""Writes a packet that announces nothing behind its options, and has a datagram there."""

from corpus import datagram, extension, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
BARE = "what stands behind no next header is not looked at"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = extension(59) + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 60, payload))
