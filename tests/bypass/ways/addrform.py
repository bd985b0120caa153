"""Connects an IPv6 socket to somebody mapped that may be called, turns it into an IPv4 socket, and calls the vault."""

import socket

from corpus import IPV6_ADDRFORM, PROXY, SILENT, called, libc, raw_connect, raw_in

PATHS = ["mapped/tcp", "mapped/udp"]


def call(scene, sock):
    if not scene.connect(sock, (scene.loopback, PROXY)):
        return SILENT
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_ADDRFORM, socket.AF_INET)
    called(libc.connect(sock.fileno(), bytes(16), 16), "connect")
    host, port = scene.to()[:2]
    with scene.judge("connect"):
        try:
            raw_connect(sock, raw_in(host.removeprefix("::ffff:"), port))
        except BlockingIOError:
            pass
    if not scene.finish(sock):
        return SILENT
    return scene.say(sock)
