"""Calls from a socket of a VRF, which is a routing table and a name of its own for the same addresses."""

import pathlib
import socket
import subprocess

from corpus import Absent

PATHS = ["v4/udp", "v4/tcp"]
HERE = "100.67.0.1"
CONTROL = "a call to a socket that is bound to a device is refused: README names it"


def stage(scene):
    made = subprocess.run(["ip", "link", "add", "red", "type", "vrf", "table", "10"], capture_output=True, check=False)
    if made.returncode and b"exists" not in made.stderr:
        raise Absent("no VRF")
    script = f"link set red up\naddress replace {HERE}/32 dev red\n"
    subprocess.run(["ip", "-batch", "-"], input=script, text=True, check=True)
    # A socket that is bound to no device takes what comes in by a VRF only if it is told to.
    for transport in ("tcp", "udp"):
        pathlib.Path(f"/proc/sys/net/ipv4/{transport}_l3mdev_accept").write_text("1")


def attempt(scene):
    sock = scene.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"red")
    to = (HERE, scene.port)
    return scene.talk(sock, to) if scene.proto == "tcp" else scene.send(sock, to)
