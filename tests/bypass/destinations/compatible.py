"""Calls ::127.0.0.1, the form of a mapped address that was given up."""

PATHS = ["v6/tcp", "v6/udp"]
BARE = "no kernel has taken it for an IPv4 address since RFC 4291"
CONTROL = BARE


def address(scene, port):
    return ("::127.0.0.1", port)
