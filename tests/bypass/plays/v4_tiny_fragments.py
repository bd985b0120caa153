"""Writes a datagram whose first fragment holds nothing but the ports."""

from corpus import datagram, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    whole = datagram(scene)
    scene.write(v4_packet("127.0.0.1", "127.0.0.1", 17, whole[:8], b"", 0x2000, scene.port))
    return scene.write(v4_packet("127.0.0.1", "127.0.0.1", 17, whole[8:], b"", 1, scene.port))
