"""Asks for a socket of each type and each of the 263 protocols, for one whose flows no hook judges."""

import errno
import socket

from corpus import SILENT

PATHS = ["v4/udp", "v6/udp"]
BARE = "having a socket is not yet a call"
CONTROL = BARE
RECORDS = "many"
# Their flows are judged one by one.
JUDGED = {(socket.SOCK_STREAM, 6), (socket.SOCK_STREAM, 262), (socket.SOCK_DGRAM, 17)}


def attempt(scene):
    refused = None
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, 6):
        for protocol in range(1, 263):
            try:
                with scene.judge("socket"):
                    socket.socket(scene.af, kind, protocol).close()
            except OSError as error:
                if error.errno == errno.EPERM:
                    refused = error
            else:
                if (kind, protocol) not in JUDGED and scene.caller == "thief":
                    return f"a socket of type {kind} and protocol {protocol}"
    if refused:
        raise refused
    return SILENT
