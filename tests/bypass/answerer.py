"""The service that must not be reached: answers on every port of the corpus, and keeps count of all that it got."""

import json
import select
import socket
import struct
import sys

from corpus import (
    BEHIND, BOUND, DUAL, FAR, IPPROTO_DCCP, IPPROTO_MPTCP, IPPROTO_UDPLITE, MULTICAST, MULTICAST6, NEAR, PORT, SOCK_DCCP,
)

# What is accepted from, whatever the transport.
STREAMS = (socket.SOCK_STREAM, SOCK_DCCP)

poll = select.poll()
sockets = {}
got = []


def watch(sock, what):
    sock.setblocking(False)
    sockets[sock.fileno()] = (sock, what)
    poll.register(sock, select.POLLIN)


def serve(af, kind, host, port, protocol=0, only=True):
    sock = socket.socket(af, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
    if af == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
    sock.bind((host, port))
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        sock.listen(64)
    watch(sock, f"{kind.name}:{port}")
    return sock


def serve_rare(af, kind, protocol, host):
    """Serves by a transport that this kernel may not have; whoever tries to call it is told so too."""
    try:
        sock = socket.socket(af, kind, protocol)
    except OSError:
        return
    if af == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, PORT))
    sock.listen(64)
    watch(sock, f"transport {protocol}:{PORT}")


def group(sock, device):
    """Joins the groups that the corpus sends to, on every device."""
    for index in (1, device):
        if sock.family == socket.AF_INET:
            where = struct.pack("=4s4si", socket.inet_aton(MULTICAST), bytes(4), index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
        else:
            where = socket.inet_pton(socket.AF_INET6, MULTICAST6) + struct.pack("=i", index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, where)


def start(ports):
    both = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    for kind in both:
        for af, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = serve(af, kind, host, ports[0])
            if kind == socket.SOCK_DGRAM and ports[0] == PORT:
                group(sock, socket.if_nametoindex("near"))
    if ports[0] != PORT:
        return
    for kind in both:
        serve(socket.AF_INET, kind, "0.0.0.0", BEHIND)
        serve(socket.AF_INET6, kind, "::", DUAL, only=False)
    for af, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            serve(af, socket.SOCK_DGRAM, host, PORT, IPPROTO_UDPLITE)
        except OSError:
            # This kernel has no UDP-Lite; whoever tries to call it is told so too.
            pass
        for kind, protocol in ((socket.SOCK_STREAM, socket.IPPROTO_SCTP), (SOCK_DCCP, IPPROTO_DCCP)):
            serve_rare(af, kind, protocol, host)
        bound = socket.socket(af, socket.SOCK_STREAM)
        if af == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, BOUND))
        sockets[-bound.fileno()] = (bound, "bound")


def read(fd):
    sock, what = sockets[fd]
    try:
        if sock.type in STREAMS and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            peer, address = sock.accept()
            got.append({"what": f"accepted on {what}", "text": ""})
            watch(peer, f"connection on {what}")
            return
        data, address = sock.recvfrom(65536)
        if data:
            # What somebody asks who may, is answered and no more.
            if not data.startswith(b"question"):
                got.append({"what": what, "text": data[:64].decode(errors="replace")})
            sock.sendto(data[:64], address) if address else sock.send(data[:64])
        elif sock.type in STREAMS:
            forget(fd)
    except BlockingIOError:
        pass
    except OSError:
        if "connection" in what:
            forget(fd)


def forget(fd):
    poll.unregister(fd)
    sockets.pop(fd)[0].close()


def main():
    start([int(port) for port in sys.argv[1:]])
    poll.register(0, select.POLLIN)
    print("ready", flush=True)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        asked = 0 in ready
        # Whoever asks is told of everything that has come until now.
        while ready:
            for fd in ready:
                if fd and fd in sockets:
                    read(fd)
            ready = [fd for fd, _ in poll.poll(0) if fd]
        if asked:
            if not sys.stdin.buffer.readline():
                return
            print(json.dumps(got), flush=True)
            got.clear()


main()
