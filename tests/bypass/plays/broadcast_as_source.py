"""Binds the loopback's broadcast address, so that the kernel chooses the source: that of somebody who may call."""

import forgery
import listener
from corpus import LATE

PATHS = ["v4/udp"]
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    sock = scene.socket()
    sock.bind(("127.255.255.255", forgery.held(scene, scene.loopback)))
    # Before the vault is there, so that it is not judged as a call of the vault's.
    sock.connect(scene.to(LATE))
    vault = listener.start(scene, scene.any, LATE)
    with scene.judge("send"):
        sock.send(scene.token)
    return listener.end(scene, vault)
