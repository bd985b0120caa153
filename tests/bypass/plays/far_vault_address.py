"""Sends from another host in the name of the vault's own address and port."""

import listener
import outside
from corpus import LATE, NEAR6

PATHS = ["v6/udp"]
CALLER = "stranger"
SOURCE = ("unknown", "world")
CONTROL = "another host may not call the vault"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    vault = listener.start(scene, NEAR6, LATE)
    outside.send(scene, (NEAR6, LATE), (NEAR6, LATE))
    return listener.end(scene, vault)
