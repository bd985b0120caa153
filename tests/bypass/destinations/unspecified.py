"""Calls 0.0.0.0 or ::, which the kernel takes for this host and a comparison with 127.0.0.1 does not."""

from corpus import EVERY

PATHS = EVERY


def address(scene, port):
    return (scene.host("0.0.0.0", "::"), port)
