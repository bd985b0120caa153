"""Sends from another host in nobody's name (:: or 0.0.0.0), and from the port that the vault itself has at every address."""

import listener
import outside
from corpus import LATE, NEAR6

PATHS = ["v4/udp", "v6/udp"]
CALLER = "stranger"
SOURCE = ("unknown", "world")
CONTROL = "another host may not call the vault"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    vault = listener.start(scene, scene.any, LATE)
    # IPv4 takes a packet without a source only if it is for everybody.
    outside.send(scene, (scene.any, LATE), (scene.host(outside.EVERYBODY, NEAR6), LATE))
    return listener.end(scene, vault)
