"""Calls from a socket of a VRF, which is a routing table and a name of its own for the same addresses."""

import socket
import subprocess

from corpus import Absent

PATHS = ["v4/udp", "v4/tcp"]
BARE = "nothing in the VRF has the vault's address"
CONTROL = BARE


def stage(scene):
    made = subprocess.run(["ip", "link", "add", "red", "type", "vrf", "table", "10"], capture_output=True, check=False)
    if made.returncode and b"exists" not in made.stderr:
        raise Absent("no VRF")
    subprocess.run(["ip", "link", "set", "red", "up"], check=True)


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"red")
    return scene.call(sock)
