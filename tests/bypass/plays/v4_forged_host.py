"""Writes a packet in the name of another host, from within."""

from corpus import datagram, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_RAW",)
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    return scene.write(v4_packet("203.0.113.7", "127.0.0.1", 17, datagram(scene, "203.0.113.7")))
