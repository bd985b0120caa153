"""Makes a tun device, and writes a packet of another host to it, which the kernel takes for one that came from there."""

import fcntl
import os
import struct
import subprocess

from corpus import NEAR, NEAR6, SILENT, Absent, udp_header, v4_packet, v6_packet

PATHS = ["v4/udp", "v6/udp"]
SOURCE = ("unknown", "world")
CONTROL = "another host may not call the vault"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def stage(scene):
    # A device that a program of root's has made and left to it.
    try:
        scene.tun = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        raise Absent("no tun") from error
    fcntl.ioctl(scene.tun, TUNSETIFF, struct.pack("=16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    script = "link set tun0 up\naddress add 100.66.0.1/24 dev tun0\naddress add fd00:66::1/64 dev tun0 nodad\n"
    subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)


def attempt(scene):
    source, destination = ("100.66.0.7", NEAR) if scene.family == "v4" else ("fd00:66::7", NEAR6)
    datagram = udp_header(source, destination, 4444, scene.port, scene.token)
    packet = (v4_packet if scene.family == "v4" else v6_packet)(source, destination, 17, datagram)
    with scene.judge("write"):
        os.write(scene.tun, packet)
    return SILENT
