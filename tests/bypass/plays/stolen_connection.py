"""Takes an open connection out of a process of the same user by pidfd_getfd."""

import socket

from corpus import SYS_PIDFD_GETFD, SYS_PIDFD_OPEN, TCP, called, libc

PATHS = [*TCP, "v4/udp", "v6/udp"]
OPEN = "handed-over-socket: pidfd_getfd takes an open connection, with its rights, from a process that the taker may trace"


def attempt(scene):
    def owner(channel):
        sock = scene.socket()
        scene.connect(sock)
        channel.send(str(sock.fileno()).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, owner)
    fd = int(scene.channel.recv(16))
    pidfd = called(libc.syscall(SYS_PIDFD_OPEN, scene.pids[-1], 0), "pidfd_open")
    return scene.say(socket.socket(fileno=called(libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd")))
