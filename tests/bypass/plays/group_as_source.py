"""Binds a group's address, from which nothing can be sent, so that the kernel chooses the source: that of somebody who may call."""

import forgery
import listener
from corpus import LATE, MULTICAST, MULTICAST6

PATHS = ["v4/udp", "v6/udp"]
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    sock = scene.socket()
    sock.bind((scene.host(MULTICAST, MULTICAST6), forgery.held(scene, scene.loopback)))
    # Before the vault is there, so that it is not judged as a call of the vault's.
    sock.connect(scene.to(LATE))
    vault = listener.start(scene, scene.any, LATE)
    with scene.judge("send"):
        sock.send(scene.token)
    return listener.end(scene, vault)
