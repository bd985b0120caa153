"""Calls 127.255.255.254, the last usable address of 127/8."""

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]


def address(scene, port):
    return (scene.host("127.255.255.254", None), port)
