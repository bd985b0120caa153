"""Changes the address in memory while the call reads it, two hundred times over."""

import ctypes
import errno
import select
import threading

from corpus import ANSWERED, PROXY, SILENT, libc
from uring import sockaddr

PATHS = ["v4/udp", "v6/udp"]
RECORDS = "many"
ALONE = "the proxy's answers to some of its hundreds of calls come to whoever has the port next"


def call(scene, sock):
    sock.setblocking(False)
    harmless, meant = sockaddr(sock, (scene.loopback, PROXY)), sockaddr(sock, scene.to())
    address = ctypes.create_string_buffer(harmless, len(harmless))
    done = threading.Event()

    def flip():
        while not done.is_set():
            address.raw = meant
            address.raw = harmless

    thread = threading.Thread(target=flip)
    thread.start()
    refused = None
    for _ in range(200):
        with scene.judge("sendto"):
            if libc.sendto(sock.fileno(), scene.token, len(scene.token), 0, address, len(harmless)) < 0:
                refused = ctypes.get_errno()
    done.set()
    thread.join()
    address.raw = meant
    with scene.judge("sendto"):
        if libc.sendto(sock.fileno(), scene.token, len(scene.token), 0, address, len(harmless)) < 0:
            refused = ctypes.get_errno()
    if refused:
        raise OSError(refused, errno.errorcode[refused])
    # The harmless one answers too.
    while scene.ready(sock, select.POLLIN):
        if sock.recvfrom(65536)[1][1] == scene.to()[1]:
            return ANSWERED
    return SILENT
