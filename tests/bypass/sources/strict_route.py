"""Routes by the sender, hop by hop (SSRR), so that the packet goes to another address than the one that was named."""

import socket

PATHS = ["v4/tcp", "v4/udp"]
BARE = "the kernel sends no packet with a route of the sender's over the loopback device"
CONTROL = BARE


def source(scene):
    sock = scene.socket()
    hops = socket.inet_aton("127.0.0.1") + socket.inet_aton("127.0.0.2")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x89\x0b\4" + hops + b"\0")
    return sock
