"""Calls itself by way of another host, to which the packet goes first and which it may not call (a routing header)."""

import errno
import os
import socket
import struct

import outside
import segments
from corpus import LATE, NEAR6

PATHS = ["v6/tcp", "v6/udp"]
CONTROL = "a service's packets may carry no routing header"


def stage(scene):
    outside.plug_in(scene)


def attempt(scene):
    own = scene.socket()
    own.bind((NEAR6, LATE))
    if scene.proto == "tcp":
        own.listen()
    sock = scene.socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments.first())
    sock.setblocking(False)
    with scene.judge("connect"):
        failed = sock.connect_ex((NEAR6, LATE))
        if failed not in (0, errno.EINPROGRESS):
            raise OSError(failed, os.strerror(failed))
    if scene.proto == "tcp":
        return outside.hear(scene, struct.pack("!HH", sock.getsockname()[1], LATE))
    with scene.judge("send"):
        sock.send(scene.token)
    return outside.hear(scene, scene.token)
