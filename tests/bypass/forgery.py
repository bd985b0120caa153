"""What those techniques share that send datagrams in the name of somebody else's socket, without any capability."""

import socket
import struct

from corpus import IP_PKTINFO, V4

# An address of this host's own beside the loopback's first, at which a port is free that is taken there.
BESIDE, BESIDE6 = "127.0.0.2", "fd00:8::1"


def held(scene, host):
    """Has somebody who may call hold a port of this address; returns the port."""

    def holder(channel):
        sock = scene.socket()
        sock.bind((host, 0))
        channel.send(str(sock.getsockname()[1]).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, holder)
    return int(scene.channel.recv(16))


def beside(scene, port):
    """A socket with the same port at an address beside it."""
    sock = scene.socket()
    sock.bind((scene.host(BESIDE, BESIDE6), port))
    return sock


def in_name_of(scene, host):
    """The control message by which a datagram leaves from this address, whatever its socket is bound to."""
    if scene.family == V4:
        return (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, socket.inet_aton(host), bytes(4)))
    return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", 0))
