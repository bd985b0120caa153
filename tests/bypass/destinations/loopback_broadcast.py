"""Calls 127.255.255.255, the broadcast address of the loopback device, from a socket that may broadcast."""

PATHS = ["v4/udp"]


def address(scene, port):
    return ("127.255.255.255", port)
