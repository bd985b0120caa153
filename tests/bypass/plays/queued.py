"""Connects while a policy permits it, and is accepted under one that does not: until then no process holds that end."""

import select
import socket

from corpus import ANSWERED, QUEUED, SILENT, TCP

PATHS = TCP
ALONE = "another policy is in force for everybody meanwhile"


def stage(scene):
    scene.appoint()


def attempt(scene):
    def vault(channel):
        sock = socket.create_server((scene.any, QUEUED), family=scene.af, dualstack_ipv6=scene.family == "mapped")
        channel.send(b"listening")
        channel.recv(1)
        heard = b""
        if scene.ready(sock, select.POLLIN):
            peer, _ = sock.accept()
            try:
                heard = peer.recv(64) if scene.ready(peer, select.POLLIN) else b""
                peer.send(heard)
            except OSError:
                # It was closed while it waited.
                pass
        channel.send(heard or b"nothing")

    channel = scene.role("vault", vault)
    channel.recv(16)
    scene.put_in_force("amnesty")
    sock = scene.socket()
    if not scene.connect(sock, scene.to(QUEUED)):
        return SILENT
    scene.revoke(sock)
    channel.send(b"a")
    try:
        end, failed = scene.say(sock), None
    except OSError as error:
        end, failed = SILENT, error
    if channel.recv(64) == scene.token:
        return ANSWERED
    if failed:
        raise failed
    return end
