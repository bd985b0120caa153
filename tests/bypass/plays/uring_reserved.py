"""Binds a port that the vault reserves by IORING_OP_BIND, without a call of bind(2)."""

from corpus import EVERY, RESERVED, Absent
from uring import OP_BIND, Ring, check, sockaddr

PATHS = EVERY
CONTROL = "the port is the vault's alone"


def attempt(scene):
    sock = scene.socket()
    ring = Ring()
    address = sockaddr(sock, (scene.loopback, RESERVED))
    ring.push(OP_BIND, sock.fileno(), ring.hold(address), offset=len(address))
    with scene.judge("io_uring_enter"):
        (result,) = ring.submit(scene, 1)
    if result == -22:
        raise Absent("no IORING_OP_BIND")
    check(result)
    return scene.intercept(sock, RESERVED)
