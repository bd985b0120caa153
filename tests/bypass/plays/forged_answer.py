"""Sends in the name of whom the vault has connected to (IP_PKTINFO), so that it seems to be that one's answer."""

import forgery
import listener
from corpus import LATE, PROXY, UDP

PATHS = UDP
CONTROL = "nobody may send in the name of another service's socket"

# What the vault may call, and holds a port of its own.
ASKED = PROXY + 70


def attempt(scene):
    def asked(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, ASKED))
        channel.send(b"ready")
        channel.recv(1)

    def vault(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, LATE))
        sock.connect((scene.loopback, ASKED))
        listener.tell(scene, channel, sock)

    scene.channel = listener.await_ready(scene.role("proxy", asked))
    vault = listener.await_ready(scene.role("vault", vault))
    sock = forgery.beside(scene, ASKED)
    # The vault's socket takes datagrams of that one alone, so that nobody seems to listen.
    sock.connect(scene.to(LATE))
    with scene.judge("sendmsg"):
        sock.sendmsg([scene.token], [forgery.in_name_of(scene, scene.loopback)])
    return listener.end(scene, vault)
