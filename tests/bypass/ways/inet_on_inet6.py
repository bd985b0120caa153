"""Gives an IPv6 socket an address of IPv4 to send to, which the kernel hands to IPv4 in the middle of the call."""

import socket

from corpus import raw_in, raw_sendto

PATHS = ["mapped/udp"]


def call(scene, sock):
    host, port = scene.to()[:2]
    with scene.judge("sendto"):
        raw_sendto(sock, scene.token, raw_in(host.removeprefix("::ffff:"), port))
    return scene.hear(sock)
