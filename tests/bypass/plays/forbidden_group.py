"""Sends to a group that nothing permits to send to, as the vault might be in it."""

import socket

PATHS = ["v4/udp", "v6/udp"]
BARE = "the vault is in no such group"
CONTROL = BARE


def attempt(scene):
    sock = scene.socket()
    if scene.family == "v6":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("near"))
    return scene.send(sock, (scene.host("239.9.9.9", "ff05::9"), scene.port))
