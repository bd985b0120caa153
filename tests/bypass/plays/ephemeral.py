"""Lets the kernel choose a port, from a range that holds one which the vault reserves and nothing else."""

import socket
import struct

from corpus import EPHEMERAL, EVERY, IP_LOCAL_PORT_RANGE, KEPT_PORTS, Absent

PATHS = EVERY
CONTROL = "the port is the vault's alone"


def stage(scene):
    KEPT_PORTS.write_text("\n")


def attempt(scene):
    sock = scene.socket()
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", EPHEMERAL << 16 | EPHEMERAL))
    except OSError as error:
        raise Absent("no IP_LOCAL_PORT_RANGE") from error
    with scene.judge("bind"):
        sock.bind((scene.loopback, 0))
    return scene.intercept(sock, EPHEMERAL)
