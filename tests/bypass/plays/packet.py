"""Writes a datagram to the loopback device by AF_PACKET, whose sockets no hook sees."""

import socket

from corpus import NEAR, SILENT, udp_header, v4_packet, v6_packet

PATHS = ["v4/udp", "v6/udp"]
NEEDS = ("CAP_NET_RAW",)
SOURCE = "unknown"
CONTROL = "a packet that no socket of this host has sent is nobody's"


def attempt(scene):
    # The kernel takes 127/8 from no packet socket, so this one is from nowhere to the host's own address.
    source, destination = ("203.0.113.7", NEAR) if scene.family == "v4" else ("::1", "::1")
    kind = 0x0800 if scene.family == "v4" else 0x86DD
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    datagram = udp_header(source, destination, 4444, scene.port, scene.token)
    packet = (v4_packet if scene.family == "v4" else v6_packet)(source, destination, 17, datagram)
    with scene.judge("sendto"):
        sock.sendto(packet, ("lo", kind, 0, 0, bytes(6)))
    return SILENT
