"""Sends to 255.255.255.255, which comes back to every socket of the host that takes the port."""

PATHS = ["v4/udp", "mapped/udp"]


def address(scene, port):
    return (scene.host("255.255.255.255", None), port)
