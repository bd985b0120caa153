"""Names another source address with the datagram (IP_PKTINFO), which the bound address does not tell."""

import socket
import struct

from corpus import UDP, V6

PATHS = UDP


def call(scene, sock):
    if scene.family == V6:
        level, kind, data = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, "::1") + bytes(4)
    elif scene.family == "v4":
        level, kind, data = socket.IPPROTO_IP, socket.IP_PKTINFO, struct.pack("=i", 0) + socket.inet_aton("127.0.0.9") + bytes(4)
    else:
        mapped = socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.9")
        level, kind, data = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, mapped + bytes(4)
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [(level, kind, data)], 0, scene.to())
    return scene.hear(sock)
