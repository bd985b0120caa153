"""Writes a packet with nine extension headers, more than anybody walks."""

from corpus import datagram, extension, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
REASON = "unparsable"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = extension(60) * 8 + extension(17) + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 60, payload))
