"""Connects an IPv6 socket to ::, which it takes for 127.0.0.1, turns it into an IPv4 socket, and forges the source with that."""

import socket
import struct

import forgery
import listener
from corpus import IP_PKTINFO, IPV6_ADDRFORM, LATE

PATHS = ["mapped/udp"]
CONTROL = "nobody may send in the name of another service's socket"


def attempt(scene):
    # The vault hears IPv4 alone, so that whoever asks for :: finds nobody.
    vault = listener.start(scene, scene.loopback, LATE)
    sock = forgery.beside(scene, forgery.held(scene, scene.loopback))
    with scene.judge("connect"):
        sock.connect(("::", LATE))
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_ADDRFORM, socket.AF_INET)
    source = struct.pack("=I4s4s", 0, socket.inet_aton("127.0.0.1"), bytes(4))
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [(socket.IPPROTO_IP, IP_PKTINFO, source)])
    return listener.end(scene, vault)
