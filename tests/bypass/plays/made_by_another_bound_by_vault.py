"""Makes a socket, lets the vault bind it, and answers with it: its maker and its binder are two."""

from corpus import EVERY, GROUP, pass_fd, take_fd

PATHS = EVERY
SOURCE = "client"


def attempt(scene):
    sock = scene.socket()

    def vault(channel):
        sock.bind((scene.loopback, GROUP + 3))
        channel.send(b"bound")
        channel.recv(1)

    scene.channel = scene.role("vault", vault)
    scene.channel.recv(16)
    return scene.intercept(sock, GROUP + 3)
