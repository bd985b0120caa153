"""Writes a packet with a routing header that is spent, which a host must step over."""

from corpus import datagram, extension, v6_packet

PATHS = ["v6/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
BARE = "the kernel takes no routing header of this kind"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    payload = extension(17, b"\4\0\0\0\0\0" ) + datagram(scene)
    return scene.write(v6_packet("::1", "::1", 43, payload))
