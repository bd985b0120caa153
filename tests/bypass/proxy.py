"""A service that everybody may call: answers itself on one port, and asks the vault on the next one."""

import select
import socket

from corpus import DOOR, PORT, PROXY

poll = select.poll()
sockets = {}


def watch(sock, act):
    sockets[sock.fileno()] = (sock, act)
    poll.register(sock, select.POLLIN)


def echo(sock):
    data = sock.recv(65536)
    if data:
        sock.send(data)
    else:
        forget(sock)


def accept(sock):
    watch(sock.accept()[0], echo)


def echo_datagram(sock):
    data, peer = sock.recvfrom(65536)
    if data:
        sock.sendto(data, peer)


def ask(sock, data):
    """What the vault says to this."""
    loopback = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    with socket.socket(sock.family, sock.type) as vault:
        vault.settimeout(2)
        vault.connect((loopback, PORT))
        vault.send(data)
        return vault.recv(65536)


def relay(sock):
    peer, _ = sock.accept()
    with peer:
        peer.send(ask(sock, peer.recv(65536)))


def relay_datagram(sock):
    data, peer = sock.recvfrom(65536)
    sock.sendto(ask(sock, data), peer)


def forget(sock):
    poll.unregister(sock)
    sockets.pop(sock.fileno())
    sock.close()


def main():
    for port, stream, datagram in ((PROXY, accept, echo_datagram), (DOOR, accept, echo_datagram),
                                   (PROXY + 1, relay, relay_datagram)):
        for kind, act in ((socket.SOCK_STREAM, stream), (socket.SOCK_DGRAM, datagram)):
            for af, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                sock = socket.socket(af, kind)
                if af == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(64)
                watch(sock, act)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            sock, act = sockets[fd]
            try:
                act(sock)
            except OSError:
                # A caller that is gone, or that the vault does not answer, ends nothing here.
                if act is echo:
                    forget(sock)


main()
