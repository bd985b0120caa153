"""Writes a datagram to the loopback device by AF_PACKET, in the name of a socket of somebody who may call."""

import socket

from corpus import SILENT, udp_header, v6_packet

PATHS = ["v6/udp"]
NEEDS = ("CAP_NET_RAW",)
OPEN = "CAP_NET_RAW lets a process forge any sender by AF_PACKET, which no cgroup hook sees"


def attempt(scene):
    def named(channel):
        sock = scene.socket()
        sock.bind(("::1", 0))
        channel.send(str(sock.getsockname()[1]).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, named)
    port = int(scene.channel.recv(16))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    packet = v6_packet("::1", "::1", 17, udp_header("::1", "::1", port, scene.port, scene.token))
    sock.sendto(packet, ("lo", 0x86DD, 0, 0, bytes(6)))
    return SILENT
