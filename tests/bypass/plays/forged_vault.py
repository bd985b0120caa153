"""Sends to 0.0.0.0 from the vault's own address and port (IP_PKTINFO): the kernel takes the source for the destination too."""

import forgery
import listener
from corpus import LATE

PATHS = ["v4/udp", "mapped/udp"]
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    host = scene.host("127.0.0.53", None)
    vault = listener.start(scene, host, LATE)
    sock = forgery.beside(scene, LATE)
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [forgery.in_name_of(scene, host)], 0, (scene.host("0.0.0.0", None), LATE))
    return listener.end(scene, vault)
