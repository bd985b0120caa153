"""Writes a packet of another host to a tun device, which the kernel takes for one that came from there."""

import fcntl
import os
import struct

from corpus import NEAR, NEAR6, SILENT, TUN, Absent, udp_header, v4_packet, v6_packet

PATHS = ["v4/udp", "v6/udp"]
SOURCE = "world"
CONTROL = "another host may not call the vault"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def stage(scene):
    # A program of root's leaves it to this one.
    try:
        scene.tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(scene.tun, TUNSETIFF, struct.pack("=16sH22x", TUN.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise Absent("no tun") from error


def attempt(scene):
    source, destination = ("100.66.0.7", NEAR) if scene.family == "v4" else ("fd00:66::7", NEAR6)
    datagram = udp_header(source, destination, 4444, scene.port, scene.token)
    packet = (v4_packet if scene.family == "v4" else v6_packet)(source, destination, 17, datagram)
    with scene.judge("write"):
        os.write(scene.tun, packet)
    return SILENT
