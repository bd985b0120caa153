"""Sends from another host over IPv6 in the name of this one's IPv4 address, and of a port that somebody who may call has there."""

import forgery
import listener
import outside
from corpus import LATE, NEAR, NEAR6

PATHS = ["v6/udp"]
CALLER = "stranger"
SOURCE = ("unknown", "world")
CONTROL = "another host may not call the vault"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    mapped = f"::ffff:{NEAR}"
    port = forgery.held(scene, mapped)
    vault = listener.start(scene, NEAR6, LATE)
    outside.send(scene, (mapped, port), (NEAR6, LATE))
    return listener.end(scene, vault)
