"""Sends a datagram by IORING_OP_SEND, which newer kernels let name an address."""

from corpus import UDP, Absent
from uring import OP_SEND, Ring, check, sockaddr

PATHS = UDP


def call(scene, sock):
    ring = Ring()
    address = sockaddr(sock, scene.to())
    ring.push(
        OP_SEND, sock.fileno(), ring.hold(scene.token), length=len(scene.token), offset=ring.hold(address),
        address_length=len(address),
    )
    with scene.judge("io_uring_enter"):
        (result,) = ring.submit(scene, 1)
    if result in (-22, -89):
        raise Absent("no address in IORING_OP_SEND")
    check(result)
    return scene.hear(sock)
