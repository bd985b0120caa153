"""Calls ::1 with a scope, so that the address is another sequence of bytes."""

PATHS = ["v6/tcp", "v6/udp"]


def address(scene, port):
    return ("::1", port, 7, 1)
