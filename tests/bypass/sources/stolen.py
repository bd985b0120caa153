"""Takes a socket out of a process that may call, by pidfd_getfd, before it is connected."""

import socket

from corpus import EVERY, SYS_PIDFD_GETFD, SYS_PIDFD_OPEN, called, libc

PATHS = EVERY


def source(scene):
    def owner(channel):
        sock = scene.socket()
        channel.send(str(sock.fileno()).encode())
        channel.recv(1)

    scene.channel = scene.role(scene.helper, owner)
    fd = int(scene.channel.recv(16))
    pidfd = called(libc.syscall(SYS_PIDFD_OPEN, scene.pids[-1], 0), "pidfd_open")
    return socket.socket(fileno=called(libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd"))
