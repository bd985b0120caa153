"""Sends to an address whose family is AF_UNSPEC, which an IPv4 socket takes for its own."""

import socket

from corpus import raw_in, raw_sendto

PATHS = ["v4/udp"]


def call(scene, sock):
    host, port = scene.to()[:2]
    with scene.judge("sendto"):
        raw_sendto(sock, scene.token, raw_in(host, port, socket.AF_UNSPEC))
    return scene.hear(sock)
