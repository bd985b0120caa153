"""Connects with a blocking socket, where a refusal that came too late would show as a hang."""

import socket
import struct

from corpus import EVERY, SILENT

PATHS = EVERY


def call(scene, sock):
    seconds, micros = divmod(int(scene.patience * 1_000_000), 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", seconds, micros))
    with scene.judge("connect"):
        try:
            sock.connect(scene.to())
        except BlockingIOError:
            return SILENT
    return scene.say(sock)
