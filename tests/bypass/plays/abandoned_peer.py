"""Takes the port that the vault's connected socket expects answers from, once its peer is gone."""

from corpus import ANSWERED, ASKING, SHARED, SILENT, UDP

PATHS = UDP


def attempt(scene):
    def peer(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, SHARED + 1200))
        channel.send(b"bound")
        channel.recv(1)

    channel = scene.role(scene.helper, peer)
    channel.recv(16)

    def vault(channel):
        sock = scene.socket()
        sock.bind((scene.loopback, ASKING))
        sock.connect((scene.loopback, SHARED + 1200))
        channel.send(b"bound")
        channel.recv(1)
        channel.send(scene.overheard(sock))

    asked = scene.role("vault", vault)
    asked.recv(16)
    scene.leave(scene.pids[-2])
    sock = scene.socket()
    sock.bind((scene.loopback, SHARED + 1200))
    with scene.judge("sendto"):
        sock.sendto(scene.token, (scene.loopback, ASKING))
    asked.send(b"?")
    return ANSWERED if asked.recv(64) == scene.token else SILENT
