"""Sends from within in the name of somebody who may call (IP_PKTINFO), by a process that is no declared service."""

import forgery
import listener
from corpus import LATE, UDP

PATHS = UDP
CALLER = "stranger"
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    sock = forgery.beside(scene, forgery.held(scene, scene.loopback))
    sock.connect(scene.to(LATE))
    vault = listener.start(scene, scene.any, LATE)
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [forgery.in_name_of(scene, scene.loopback)])
    return listener.end(scene, vault)
