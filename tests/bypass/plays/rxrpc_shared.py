"""Sends by AF_RXRPC while somebody who may call has such a socket too: without ports of their own both use one UDP socket."""

import select

import rxrpc
from corpus import SILENT, Absent

PATHS = ["v4/udp", "v6/udp"]
ONEWAY = "what the vault says is no answer in RxRPC"
RECORDS = "many"
OPEN = "shared-rxrpc: whoever calls by RxRPC without a port of its own does so by a socket of the kernel's that others use too"


def attempt(scene):
    def friend(channel):
        sock = rxrpc.bound(scene)
        channel.send(b"bound")
        channel.recv(1)
        sock.close()

    # Here it is found that there is none.
    rxrpc.bound(scene).close()
    scene.channel = scene.role(scene.helper, friend)
    scene.channel.recv(16)
    sock = rxrpc.bound(scene)
    threads = rxrpc.threads()
    if not threads:
        raise Absent("RxRPC has no thread, so that who calls is judged")
    scene.pids += threads
    rxrpc.call(scene, sock)
    scene.ready(sock, select.POLLIN)
    return SILENT
