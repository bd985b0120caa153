"""A vault of an attempt's own, where and when the attempt needs one."""

import select
import socket
import struct

from corpus import ANSWERED, CLONE_NEWNET, SILENT, called, libc


def start(scene, host, port):
    """Has the vault listen there, until this attempt ends."""

    def vault(channel):
        sock = scene.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(scene.proto == "tcp"))
        sock.bind((host, port))
        if scene.proto == "tcp":
            sock.listen()
        tell(scene, channel, sock)

    return await_ready(scene.role("vault", vault))


def elsewhere(scene, group, port):
    """Has the vault listen at the other end of the cable, to whoever sends to this group; only root can have it go there."""

    def vault(channel):
        called(libc.setns(scene.namespaces["annex"], CLONE_NEWNET), "setns")
        sock = scene.socket()
        sock.bind(("::", port))
        far = struct.pack("=i", socket.if_nametoindex("far"))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + far)
        tell(scene, channel, sock)

    return await_ready(scene.role("vault", vault))


def tell(scene, channel, sock):
    """The vault's part: says that it is ready, and when it is asked, what it has got. It answers nobody."""
    channel.send(b"ready")
    channel.recv(1)
    # What has come by a cable may not have been taken in by the kernel yet.
    heard = b"none"
    if scene.ready(sock, select.POLLIN):
        if scene.proto == "tcp":
            sock, _ = sock.accept()
        heard = sock.recv(64) if scene.ready(sock, select.POLLIN) else heard
    channel.send(heard)


def await_ready(channel):
    if channel.recv(16) != b"ready":
        raise RuntimeError("the vault does not listen")
    return channel


def end(scene, channel):
    """How the attempt ends: the vault has got the token, or has not."""
    channel.send(b"?")
    return ANSWERED if channel.recv(64) == scene.token else SILENT
