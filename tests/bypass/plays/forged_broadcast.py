"""Sends to 255.255.255.255 in the name of somebody who may call (IP_PKTINFO), which leads to the loopback device."""

import socket

import forgery
from corpus import SILENT

PATHS = ["v4/udp", "mapped/udp"]
CALLER = "stranger"
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    sock = forgery.beside(scene, forgery.held(scene, scene.loopback))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    source = forgery.in_name_of(scene, scene.loopback)
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [source], 0, (scene.host("255.255.255.255", None), scene.port))
    return SILENT
