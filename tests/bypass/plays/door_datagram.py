"""Sends to a port of somebody that may be called, from which the host's own NAT leads on to the vault."""

from corpus import DOOR

PATHS = ["v4/udp", "mapped/udp"]
ONEWAY = "an answer by somebody whom the host has put in the place of the one asked is refused: README names it"


def attempt(scene):
    return scene.send(scene.socket(), (scene.loopback, DOOR))
