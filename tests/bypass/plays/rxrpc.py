"""Sends by AF_RXRPC, whose datagrams a thread of the kernel's sends by a UDP socket of the kernel's (since 6.2)."""

import select

import rxrpc
from corpus import SILENT

PATHS = ["v4/udp", "v6/udp"]
ONEWAY = "what the vault says is no answer in RxRPC"
RECORDS = "many"


def attempt(scene):
    sock = rxrpc.bound(scene)
    scene.pids += rxrpc.threads()
    rxrpc.call(scene, sock)
    # It tells when the call has failed.
    scene.ready(sock, select.POLLIN)
    return SILENT
