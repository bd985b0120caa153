"""Fills an io_uring that a process of somebody who may call has made and shared: that process's kernel thread calls."""

import os
import socket

from corpus import SILENT, TCP
from uring import OP_CONNECT, SQPOLL, Ring, sockaddr

PATHS = [*TCP, "v4/udp", "v6/udp"]
OPEN = "shared-ring: whoever shares an io_uring that a kernel thread empties lends its name to all that is put into it"


def attempt(scene):
    theirs, ours = socket.socketpair()
    scene.enter(scene.helper)
    ring = Ring(SQPOLL)
    sock = scene.socket()
    sock.setblocking(False)
    address = ring.hold(sockaddr(sock, scene.to()))
    # The ring's thread first has to be given a processor.
    scene.patience = max(scene.patience, 1)
    size = 16 if scene.family == "v4" else 28
    pid = os.fork()
    if pid == 0:
        # This one is of the caller's service, and the ring's thread of the helper's.
        scene.enter(scene.caller)
        ring.push(OP_CONNECT, sock.fileno(), address, offset=size)
        ring.submit(scene, 1)
        os._exit(0)
    scene.pids.append(pid)
    os.waitpid(pid, 0)
    if scene.proto == "tcp" and not scene.finish(sock):
        return SILENT
    scene.enter(scene.caller)
    return scene.say(sock)
