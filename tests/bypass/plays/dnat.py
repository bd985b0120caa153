"""Calls a port that it may call, and that the host's NAT leads to the vault."""

from corpus import DOOR

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]
SOURCE = "unknown"
CONTROL = "behind NAT the caller's socket is not found by the packet's own ports"


def attempt(scene):
    sock = scene.socket()
    to = (scene.loopback, DOOR)
    return scene.talk(sock, to) if scene.proto == "tcp" else scene.send(sock, to)
