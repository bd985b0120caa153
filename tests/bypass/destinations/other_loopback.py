"""Calls an address of 127/8 that nobody has configured and everybody has."""

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]


def address(scene, port):
    return (scene.host("127.9.8.7", None), port)
