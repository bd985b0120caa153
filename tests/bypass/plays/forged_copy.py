"""Sends to the broadcast of a subnet in the name of somebody who may call: of that the kernel makes this host a copy without a socket."""

import socket

import forgery
import listener
from corpus import BROADCAST, LATE, NEAR

PATHS = ["v4/udp"]
CALLER = "stranger"
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    sock = forgery.beside(scene, forgery.held(scene, NEAR))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    vault = listener.start(scene, scene.any, LATE)
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [forgery.in_name_of(scene, NEAR)], 0, (BROADCAST, LATE))
    return listener.end(scene, vault)
