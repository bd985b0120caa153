"""Names the source address with each datagram (IP_PKTINFO), so that it is not the socket's."""

import socket
import struct

from corpus import IP_PKTINFO, UDP, V4

PATHS = UDP


def call(scene, sock):
    if scene.family == V4:
        told = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, socket.inet_aton("127.0.0.77"), bytes(4)))
    else:
        host = scene.host(None, "::1") if scene.family == "v6" else "::ffff:127.0.0.77"
        told = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, host) + struct.pack("=I", 0))
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [told], 0, scene.to())
    return scene.hear(sock)
