"""Calls ::ffff:0.0.0.0, the unspecified address in the dress of another family."""

PATHS = ["mapped/tcp", "mapped/udp"]


def address(scene, port):
    return ("::ffff:0.0.0.0", port)
