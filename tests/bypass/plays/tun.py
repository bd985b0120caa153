"""Makes a device of its own (TUN) and lets a packet of its own writing arrive there."""

import fcntl
import os
import socket
import struct

from corpus import NEAR, SILENT, udp_header, v4_packet

PATHS = ["v4/udp"]
CALLER = "stranger"
NEEDS = ("CAP_NET_ADMIN",)
SOURCE = "world"
CONTROL = "what comes in over a device is another host's"


def attempt(scene):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    name = f"tun{os.getpid()}".encode()
    fcntl.ioctl(tun, 0x400454CA, struct.pack("=16sH22x", name, 0x1001))
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(control, 0x8914, struct.pack("=16sH22x", name, 0x41))
    datagram = udp_header("10.9.9.2", NEAR, 4444, scene.port, scene.token)
    with scene.judge("write"):
        os.write(tun, v4_packet("10.9.9.2", NEAR, 17, datagram))
    return SILENT
