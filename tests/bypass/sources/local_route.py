"""Sends from an address that is the host's by a route alone."""

PATHS = ["v4/tcp", "v4/udp", "mapped/tcp", "mapped/udp"]
ONEWAY = "an address that is the host's by a route alone counts as another host's: README names it"


def source(scene):
    sock = scene.socket()
    sock.bind((scene.host("198.18.0.9", None), 0))
    return sock
