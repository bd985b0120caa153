"""Connects by sendto with MSG_FASTOPEN: a TCP connection without a call of connect(2)."""

from corpus import MSG_FASTOPEN, SILENT, TCP

PATHS = TCP


def call(scene, sock):
    sock.setblocking(False)
    with scene.judge("sendto"):
        try:
            sock.sendto(scene.token, MSG_FASTOPEN, scene.to())
        except BlockingIOError:
            if not scene.finish(sock):
                return SILENT
            sock.send(scene.token)
    return scene.hear(sock)
