"""Writes a packet with a routing header of an unknown kind with no hops left."""

from corpus import datagram, extension, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = extension(17, b"\xfd\0\0\0\0\0") + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 43, payload))
