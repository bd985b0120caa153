"""Sends what looks like an answer to a socket of the vault's that has asked somebody else."""

from corpus import ANSWERED, ASKING, NOTICES, PROXY, SILENT, UDP

PATHS = UDP


def attempt(scene):
    def vault(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, ASKING))
        # The vault asks the proxy, which does not answer this.
        sock.sendto(b"", (scene.loopback, PROXY))
        channel.send(b"bound")
        channel.recv(1)
        channel.send(scene.overheard(sock))

    asked = scene.role("vault", vault)
    asked.recv(16)
    sock = scene.socket()
    sock.bind((scene.loopback, NOTICES))
    with scene.judge("sendto"):
        sock.sendto(scene.token, (scene.loopback, ASKING))
    asked.send(b"?")
    return ANSWERED if asked.recv(64) == scene.token else SILENT
