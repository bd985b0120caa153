"""Sends to the group of all hosts, which everybody is in without having joined."""

import socket

PATHS = ["v6/udp"]


def address(scene, port):
    return ("ff02::1", port, 0, socket.if_nametoindex("near"))
