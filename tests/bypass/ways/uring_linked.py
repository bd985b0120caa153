"""Links connect and send in one submission, so that nothing can come between the two."""

from corpus import EVERY
from uring import LINK, OP_CONNECT, OP_SEND, Ring, sockaddr

PATHS = EVERY


def call(scene, sock):
    ring = Ring()
    address = sockaddr(sock, scene.to())
    # A blocking socket would wait for an answer to its SYN; this one is asked again by the link.
    ring.push(OP_CONNECT, sock.fileno(), ring.hold(address), offset=len(address), flags=LINK)
    ring.push(OP_SEND, sock.fileno(), ring.hold(scene.token), length=len(scene.token))
    return ring.finish(scene, sock, 2)
