"""Another host, as far as the enforcer can tell: what comes out of the cable's far end, and what its owner sends into it."""

import os
import select
import socket

from corpus import ANSWERED, CLONE_NEWNET, NEAR_DEVICE, SILENT, called, libc, udp_header, v4_packet, v6_packet

EVERY_PROTOCOL, V4_PROTOCOL, V6_PROTOCOL = 0x0003, 0x0800, 0x86DD
EVERYBODY, EVERYWHERE = "255.255.255.255", "ff:ff:ff:ff:ff:ff"


def plug_in(scene):
    """Opens the far end of the cable, as root of that host: what it sends passes no hook, and what it hears is not asked for."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    called(libc.setns(scene.namespaces["annex"], CLONE_NEWNET), "setns")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERY_PROTOCOL))
    sock.bind(("far", EVERY_PROTOCOL))
    called(libc.setns(home, CLONE_NEWNET), "setns")
    os.close(home)
    scene.outside = sock


def hear(scene, what):
    """How the attempt ends: a packet with these bytes comes out of the cable, or none does."""
    while scene.ready(scene.outside, select.POLLIN):
        packet, (_, _, kind, *_) = scene.outside.recvfrom(65536)
        if kind != socket.PACKET_OUTGOING and what in packet:
            return ANSWERED
    return SILENT


def send(scene, source, destination):
    """Sends the token to this host as a datagram from wherever it likes."""
    (host, port), (to, service) = source, destination
    datagram = udp_header(host, to, port, service, scene.token)
    packet = (v6_packet if ":" in to else v4_packet)(host, to, socket.IPPROTO_UDP, datagram)
    device = (EVERYWHERE if to == EVERYBODY else NEAR_DEVICE).replace(":", "")
    with scene.judge("sendto"):
        scene.outside.sendto(packet, ("far", V6_PROTOCOL if ":" in to else V4_PROTOCOL, 0, 0, bytes.fromhex(device)))
