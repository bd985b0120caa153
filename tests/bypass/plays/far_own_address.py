"""Sends from another host in the name of this one's address, and of a port that somebody who may call has there."""

import forgery
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
    outside.send(scene, (NEAR6, forgery.held(scene, NEAR6)), (NEAR6, LATE))
    return listener.end(scene, vault)
