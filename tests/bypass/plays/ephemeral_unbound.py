"""Gets a port that the vault reserves by sending from it, without a call of bind(2), and waits for those who call it."""

import select
import socket
import struct

from corpus import EPHEMERAL, IP_LOCAL_PORT_RANGE, KEPT_PORTS, PROXY, UDP, Absent

PATHS = UDP
SOURCE = "client"


def stage(scene):
    KEPT_PORTS.write_text("\n")


def attempt(scene):
    sock = scene.socket()
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", EPHEMERAL << 16 | EPHEMERAL))
    except OSError as error:
        raise Absent("no IP_LOCAL_PORT_RANGE") from error
    sock.sendto(b"question", (scene.loopback, PROXY))
    scene.ready(sock, select.POLLIN, 5)
    sock.recv(64)
    return scene.intercept(sock, EPHEMERAL)
