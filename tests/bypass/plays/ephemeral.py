"""Lets the kernel choose a port, from a range that holds one which the vault reserves and nothing else."""

from corpus import EPHEMERAL, EVERY, KEPT_PORTS

PATHS = EVERY
CONTROL = "the port is the vault's alone"


def stage(scene):
    KEPT_PORTS.write_text("\n")


def attempt(scene):
    sock = scene.socket()
    scene.only(sock, EPHEMERAL)
    with scene.judge("bind"):
        sock.bind((scene.loopback, 0))
    return scene.intercept(sock, EPHEMERAL)
