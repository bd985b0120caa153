"""Calls a port of somebody that may be called, from which the host's own NAT leads on to the vault."""

from corpus import DOOR

PATHS = ["v4/tcp", "mapped/tcp"]
# The caller's socket is connected to the port before the translation, so it is not found from the one behind it.
SOURCE = "unknown"
CONTROL = "a connection whose addresses the host translates is refused where its caller is not found: README names it"


def address(scene, port):
    return (scene.loopback, DOOR)
