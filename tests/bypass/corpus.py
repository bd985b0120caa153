"""What the techniques of the corpus share: the scene that an attempt is made in, and raw system calls."""

import ctypes
import errno
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager

libc = ctypes.CDLL(None, use_errno=True)

V4, V6, MAPPED = "v4", "v6", "mapped"
TCP = ["v4/tcp", "v6/tcp", "mapped/tcp"]
UDP = ["v4/udp", "v6/udp", "mapped/udp"]
EVERY = TCP + UDP

# Where the vault answers. Ports from OLD on are answered by sockets that are older than the enforcer.
PORT, DUAL, BOUND, SHARED, TAKEN, GROUP, ASKING = 7001, 7002, 7005, 7006, 7007, 7008, 7050
OLD = 7011
# What the vault reserves and does not hold, the second of them among the ports that the kernel gives to anybody.
RESERVED, EPHEMERAL = 7009, 40001
KEPT_PORTS = pathlib.Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
# What the callers may call beside it, and what DNAT leads from there to the vault.
PROXY, DOOR, BEHIND = 7100, 7150, 7055
# Where the vault and a caller cross each other, at the one's port and the other's.
CROSSING, CROSSING_BACK = 7060, 7310
# Where the vault answers who has called while a policy was in force that permits more.
QUEUED, KEPT = 7062, 7063
# Where the vault begins to listen in the midst of an attempt.
LATE = 7070
# Where the vault itself may call whoever has this port.
NOTICES = 7300

NEAR, NEAR6, FAR, FAR6 = "100.64.0.1", "fd00:7::1", "100.64.0.2", "fd00:7::2"
# What the prober may call, and a network that may call the vault.
BEYOND, BEYOND6, PARTNER6 = "198.51.100.9", "fd00:77::3", "fd00:99::7"
NEAR_DEVICE, FAR_DEVICE = "02:00:00:00:00:01", "02:00:00:00:00:02"
LINK_LOCAL, TUN = "fe80::7", "tun0"
VRF, IN_VRF = "red", "100.67.0.1"
MULTICAST, MULTICAST6, BROADCAST = "239.1.2.3", "ff05::7", "100.64.0.3"

NOBODY = 65534
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}

CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x02000000, 0x10000000, 0x20000000, 0x40000000
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
IPPROTO_MPTCP, IPPROTO_UDPLITE = 262, 136
SOCK_DCCP, IPPROTO_DCCP = 6, 33
SO_BINDTOIFINDEX = 62
IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT, IP_FREEBIND, IP_UNICAST_IF = 19, 24, 15, 50
IP_PKTINFO, IP_LOCAL_PORT_RANGE = 8, 51
IPV6_TRANSPARENT, IPV6_FREEBIND, IPV6_UNICAST_IF, IPV6_ADDRFORM = 75, 78, 76, 1
MSG_FASTOPEN, MSG_ZEROCOPY, TCP_FASTOPEN_CONNECT = 0x20000000, 0x4000000, 30

# How an attempt ends where no call fails.
SILENT, ANSWERED = "silent", "answered"


class Absent(Exception):
    """This kernel does not have what the technique needs."""


def called(result, name):
    """The result of a call of libc, or its errno as an exception."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def raw_in(host, port, family=socket.AF_INET):
    """`struct sockaddr_in`, with a family of the caller's choosing."""
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def need_vrf():
    """Says that there is no VRF where this kernel has none; the stage makes it before the enforcer is there."""
    try:
        socket.if_nametoindex(VRF)
    except OSError as error:
        raise Absent("no VRF") from error


def raw_in6(host, port):
    """`struct sockaddr_in6`."""
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, host) + bytes(4)


def raw_sendto(sock, data, address, flags=0):
    """`sendto` with an address that Python would not make."""
    return called(libc.sendto(sock.fileno(), data, len(data), flags, address, len(address)), "sendto")


def raw_connect(sock, address):
    """`connect` with an address that Python would not make."""
    return called(libc.connect(sock.fileno(), address, len(address)), "connect")


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_header(source, destination, sport, dport, data):
    """A whole UDP datagram, with the checksum over the addresses that IPv6 asks for."""
    length = 8 + len(data)
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    head = struct.pack("!HHH", sport, dport, length)
    total = checksum(addresses + struct.pack("!II", length, 17) + head + b"\0\0" + data) or 0xFFFF
    return head + struct.pack("!H", total) + data


def syn(source, destination, sport, dport):
    """A TCP segment that asks for a connection."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    head = struct.pack("!HHIIBBH", sport, dport, 7, 0, 5 << 4, 2, 65535)
    total = checksum(addresses + struct.pack("!II", 20, 6) + head + bytes(4))
    return head + struct.pack("!HH", total, 0)


def v4_packet(source, destination, protocol, payload, options=b"", fragment=0, identification=7):
    """A whole IPv4 packet."""
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), identification, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )
    head = head[:10] + struct.pack("!H", checksum(head + options)) + head[12:]
    return head + options + payload


def v6_packet(source, destination, next_header, payload):
    """A whole IPv6 packet."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64) + addresses + payload


PADDING = b"\1\4\0\0\0\0"


def extension(next_header, body=PADDING):
    """An extension header of IPv6; eight bytes of padding if nothing else is said."""
    return struct.pack("!BB", next_header, (len(body) + 2) // 8 - 1) + body


def datagram(scene, source=None):
    """The token as a datagram to the vault, from a port that no socket has."""
    source, destination = source or scene.loopback, scene.loopback
    return udp_header(source, destination, 4444, scene.port, scene.token)


class Scene:
    """One attempt: along which path, by whom, with what means."""

    def __init__(self, order, cgroups, namespaces):
        self.family, self.proto = order["path"].split("/")
        self.caller, self.helper, self.client = order["caller"], order["helper"], order["client"]
        self.patience, self.deadline = order["patience"] / 1000, order["deadline"] / 1000
        self.token = order["token"].encode()
        self.cgroups, self.namespaces = cgroups, namespaces
        self.apply = order["apply"]
        self.port = PORT
        self.pids = [os.getpid()]
        self.judged = None
        self.said = self.closed = self.pardoned = False

    # The path.

    @property
    def af(self):
        return socket.AF_INET if self.family == V4 else socket.AF_INET6

    @property
    def kind(self):
        return socket.SOCK_STREAM if self.proto == "tcp" else socket.SOCK_DGRAM

    @property
    def loopback(self):
        return {V4: "127.0.0.1", V6: "::1", MAPPED: "::ffff:127.0.0.1"}[self.family]

    @property
    def any(self):
        return "0.0.0.0" if self.family == V4 else "::"

    def host(self, v4, v6):
        """The address for this path's family."""
        return {V4: v4, V6: v6, MAPPED: f"::ffff:{v4}"}[self.family]

    def to(self, port=None):
        """The vault's address."""
        return self.address(self, port or self.port)

    @staticmethod
    def address(scene, port):
        return (scene.loopback, port)

    def socket(self, protocol=0):
        """An ordinary socket of this path's kind."""
        return socket.socket(self.af, self.kind, protocol)

    def only(self, sock, port):
        """Leaves the kernel this one port to choose from for a socket."""
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
        except OSError as error:
            raise Absent("no IP_LOCAL_PORT_RANGE") from error

    # The call.

    @contextmanager
    def judge(self, call):
        """What is called in here is to fail at once where a hook can answer."""
        start = time.monotonic()
        self.judged = call
        try:
            yield
        finally:
            self.took = time.monotonic() - start

    def connect(self, sock, to=None):
        """Connects; whether it is connected now."""
        sock.setblocking(False)
        with self.judge("connect"):
            failed = sock.connect_ex(to or self.to())
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, os.strerror(failed))
        return failed == 0 or self.finish(sock)

    def finish(self, sock):
        """Waits for a connection that has begun; whether it is there."""
        if not self.ready(sock, select.POLLOUT):
            return False
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        return True

    def say(self, sock):
        """Says the token over a connected socket, and hears whether it is answered."""
        with self.judge("send"):
            sock.send(self.token)
        return self.hear(sock)

    def hear(self, sock):
        self.said = True
        if not self.ready(sock, select.POLLIN):
            return SILENT
        return ANSWERED if sock.recv(65536) else SILENT

    def ready(self, sock, event, patience=None):
        poll = select.poll()
        poll.register(sock, event)
        return bool(poll.poll((self.patience if patience is None else patience) * 1000))

    def talk(self, sock, to=None):
        """Connects, says the token, and hears whether it is answered."""
        return self.say(sock) if self.connect(sock, to) else SILENT

    def send(self, sock, to=None, data=None):
        """Sends the token as a datagram, and hears whether it is answered."""
        with self.judge("send"):
            sock.sendto(data or self.token, to or self.to())
        return self.hear(sock)

    def call(self, sock):
        """The most ordinary call: connect and send, or send a datagram."""
        return self.talk(sock) if self.proto == "tcp" else self.send(sock)

    def inject(self, sock, packet):
        """Sends bytes of the caller's own making by a raw socket."""
        with self.judge("sendto"):
            sock.sendto(packet, (self.loopback, 0))
        return SILENT

    def write(self, packet):
        """Sends a whole packet by a raw socket."""
        return self.inject(socket.socket(self.af, socket.SOCK_RAW, socket.IPPROTO_RAW), packet)

    def intercept(self, sock, port, times=1):
        """Has somebody who may call the vault call this socket instead, and listens for the token."""
        if self.proto == "tcp":
            sock.listen()
        sock.setblocking(False)

        def client(channel):
            told = b"none"
            for _ in range(times):
                try:
                    self.call_from_fresh(port)
                except OSError as error:
                    told = errno.errorcode[error.errno].encode()
            channel.send(told)
            channel.recv(1)

        self.channel2 = self.role(self.client, client)
        told = self.channel2.recv(64).decode()
        while self.ready(sock, select.POLLIN, 0):
            heard = sock.accept()[0] if self.proto == "tcp" else sock
            # A connection is enough: nobody but the vault was to have one.
            if self.proto == "tcp" or heard.recv(65536):
                return ANSWERED
        if told != "none":
            self.judged = "connect" if self.proto == "tcp" else "sendto"
            code = getattr(errno, told)
            raise OSError(code, os.strerror(code))
        return SILENT

    def call_from_fresh(self, port):
        """Calls once from a new socket, without waiting for more than a connection."""
        with self.socket() as sock:
            sock.setblocking(False)
            if self.proto == "udp":
                sock.sendto(self.token, self.to(port))
                return
            failed = sock.connect_ex(self.to(port))
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, os.strerror(failed))
            if not self.finish(sock):
                return

    def overheard(self, sock):
        """What has come to a socket until now."""
        return sock.recv(65536) if self.ready(sock, select.POLLIN, 0) else b"none"

    def in_thread(self, run):
        """Runs something in another thread, with its result or its exception."""
        ended = []

        def body():
            try:
                ended.append((run(), None))
            except BaseException as error:
                ended.append((None, error))

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        result, error = ended[0]
        if error:
            raise error
        return result

    # The people.

    def enter(self, name):
        """Moves this process into a cgroup; the descriptor was opened by root, whose right the kernel asks for."""
        os.write(self.cgroups[name], b"0")

    def role(self, name, play, *args, kept=()):
        """Starts a process of `name` that runs `play(channel, *args)`; returns the other end of the channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                libc.prctl(1, 9, 0, 0, 0)
                ours.close()
                self.enter(name)
                play(theirs, *args)
                # Whoever started it ends it, once it has done with what it has.
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()
        # A slow machine has a later deadline.
        ours.settimeout(self.deadline)
        self.pids.append(pid)
        return ours

    def appoint(self):
        """Starts a process that stays root, to put policies in force for an attempt that does not."""
        def govern(channel):
            while name := channel.recv(64).decode():
                done = subprocess.run(self.apply[name], capture_output=True, check=False)
                channel.send(done.stderr if done.returncode else b"done")

        self.governor = self.role("bell", govern)

    def put_in_force(self, name):
        """Has everybody judged by another policy from here on, if anybody judges."""
        if not self.apply:
            return
        # Until it is known that the other one is.
        self.pardoned = True
        self.governor.send(name.encode())
        told = self.governor.recv(4096)
        if told != b"done":
            raise RuntimeError(f"apply policy {name}: {told.decode()}")
        self.pardoned = name != "usual"

    def revoke(self, sock):
        """Puts the usual policy in force; it closes the live connections that it forbids, and this one's end is waited for."""
        self.put_in_force("usual")
        if self.apply and self.caller == "thief":
            self.closed = self.ready(sock, select.POLLERR | select.POLLHUP, self.deadline / 3)

    def accepted(self):
        """A socket by which the vault was answered, of which nothing but the disconnected socket is left."""
        listener = self.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.loopback, NOTICES))
        listener.listen()

        def vault(channel):
            sock = self.socket()
            # It is refused or dropped only where something is broken.
            sock.settimeout(self.deadline / 50)
            failed = sock.connect_ex((self.loopback, NOTICES))
            channel.send(str(failed).encode())
            channel.recv(1)

        if failed := int(self.role("vault", vault).recv(16)):
            raise OSError(failed, os.strerror(failed))
        sock, _ = listener.accept()
        called(libc.connect(sock.fileno(), bytes(16), 16), "connect")
        return sock

    def leave(self, pid):
        """Ends a role, and waits until it has ended."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def outcome(self, end, **more):
        took = round(getattr(self, "took", 0) * 1000, 3)
        return {"end": end, "call": self.judged or "setup", "ms": took, "pids": self.pids, "closed": self.closed,
                "pardoned": self.pardoned, **more}


def drop(kept=()):
    """Gives up root, and every capability but these."""
    libc.prctl(8, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    bits = sum(1 << CAPABILITIES[name] for name in kept)
    header = struct.pack("=II", 0x20080522, 0)
    called(libc.capset(header, struct.pack("=IIIIII", bits, bits, 0, 0, 0, 0)), "capset")
    # So that another process of the same user may look into this one, as it may into most.
    libc.prctl(4, 1, 0, 0, 0)


def true_pid():
    """This process's number in everybody's eyes: a namespace of processes gives it another one, the host's /proc not."""
    return int(os.readlink("/proc/self"))


def pass_fd(channel, sock):
    socket.send_fds(channel, [b"fd"], [sock.fileno()])


def take_fd(channel, kind=socket.socket):
    _, fds, _, _ = socket.recv_fds(channel, 16, 1)
    return kind(fileno=fds[0])
