"""Calls an address that is the host's by a route alone, and stands on no device."""

from corpus import EVERY

PATHS = EVERY
CONTROL = "an address that is the host's by a route alone counts as another host's: README names it"


def address(scene, port):
    return (scene.host("198.18.0.9", "fd00:9::9"), port)
