"""Writes a datagram to the loopback device by AF_PACKET, from a port of somebody who may call."""

import socket

from corpus import SILENT, udp_header, v6_packet

PATHS = ["v6/udp"]
NEEDS = ("CAP_NET_RAW",)
ONEWAY = "the answer goes to that socket, which has not asked"
OPEN = "forged-packets: whoever may write packets (CAP_NET_RAW) can write them in the name of another service's socket"


def attempt(scene):
    def owner(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, 0))
        channel.send(str(sock.getsockname()[1]).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, owner)
    datagram = udp_header("::1", "::1", int(scene.channel.recv(16)), scene.port, scene.token)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    with scene.judge("sendto"):
        sock.sendto(v6_packet("::1", "::1", 17, datagram), ("lo", 0x86DD, 0, 0, bytes(6)))
    return SILENT
