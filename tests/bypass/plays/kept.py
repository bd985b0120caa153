"""Goes on speaking by a connection that was made, used and answered while a policy permitted it."""

import socket

from corpus import EVERY, KEPT, SILENT

PATHS = EVERY
ALONE = "another policy is in force for everybody meanwhile"


def stage(scene):
    scene.appoint()


def attempt(scene):
    def vault(channel):
        sock = socket.socket(scene.af, scene.kind)
        sock.bind((scene.any, KEPT))
        if scene.proto == "tcp":
            sock.listen()
        channel.send(b"bound")
        if scene.proto == "tcp":
            sock, _ = sock.accept()
        try:
            while said := sock.recvfrom(64):
                sock.sendto(said[0], said[1]) if said[1] else sock.send(said[0])
        except OSError:
            # It was closed.
            pass

    channel = scene.role("vault", vault)
    channel.recv(16)
    scene.put_in_force("amnesty")
    sock = scene.socket()
    if scene.proto == "udp":
        sock.connect(scene.to(KEPT))
    elif not scene.connect(sock, scene.to(KEPT)):
        return SILENT
    if scene.say(sock) == SILENT:
        return SILENT
    scene.revoke(sock)
    return scene.say(sock)
