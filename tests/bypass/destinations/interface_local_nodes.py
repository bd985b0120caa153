"""Sends to ff01::1, the group of all hosts that never leaves the device."""

PATHS = ["v6/udp"]


def address(scene, port):
    return ("ff01::1", port, 0, 1)
