"""An io_uring by bare system calls: what a program submits without ever calling connect or send."""

import ctypes
import mmap
import errno
import os
import select
import socket
import struct

from corpus import SILENT, Absent, called, libc

SETUP, ENTER, REGISTER = 425, 426, 427
SQPOLL = 2
OP_SENDMSG, OP_CONNECT, OP_SEND, OP_SOCKET, OP_BIND = 9, 16, 26, 45, 56
FIXED_FILE, LINK = 1, 4
WAKEUP = 2


class Ring:
    """Eight entries are more than any technique submits."""

    def __init__(self, flags=0):
        params = ctypes.create_string_buffer(120)
        struct.pack_into("=IIII", params, 0, 0, 0, flags, 0)
        try:
            self.fd = called(libc.syscall(SETUP, 8, params), "io_uring_setup")
        except OSError as error:
            if error.errno in (1, 38):
                raise Absent("io_uring is switched off") from error
            raise
        self.flags = flags
        entries, cq_entries = struct.unpack_from("=II", params, 0)
        sq, cq = struct.unpack_from("=10I", params, 40), struct.unpack_from("=10I", params, 80)
        self.sq_tail, self.sq_mask, self.sq_array = sq[1], sq[2], sq[6]
        self.cq_head, self.cq_tail, self.cq_mask, self.cqes = cq[0], cq[1], cq[2], cq[5]
        size = max(sq[6] + entries * 4, cq[5] + cq_entries * 16)
        self.ring = mmap.mmap(self.fd, size, offset=0)
        self.entries = mmap.mmap(self.fd, entries * 64, offset=0x10000000)
        self.keep = []

    def word(self, offset):
        return struct.unpack_from("=I", self.ring, offset)[0]

    def push(self, op, fd, pointer, length=0, offset=0, flags=0, address_length=0):
        """Puts an entry where the kernel will find it."""
        tail = self.word(self.sq_tail)
        index = tail & self.word(self.sq_mask)
        entry = struct.pack("=BBHiQQIIQ", op, flags, 0, fd, offset, pointer, length, 0, tail)
        self.entries[index * 64 : index * 64 + 64] = entry + struct.pack("=4xH18x", address_length)
        struct.pack_into("=I", self.ring, self.sq_array + index * 4, index)
        struct.pack_into("=I", self.ring, self.sq_tail, tail + 1)

    def hold(self, data):
        """The address of bytes that live as long as the ring."""
        buffer = ctypes.create_string_buffer(data, len(data))
        self.keep.append(buffer)
        return ctypes.addressof(buffer)

    def register(self, fd):
        """Gives the kernel a file by number 0 of its own table."""
        called(libc.syscall(REGISTER, self.fd, 2, (ctypes.c_int * 1)(fd), 1), "io_uring_register")

    def connect(self, scene, sock, op, fd=None, flags=0):
        """Connects by one entry, and goes on as after connect(2)."""
        sock.setblocking(False)
        address = sockaddr(sock, scene.to())
        self.push(op, sock.fileno() if fd is None else fd, self.hold(address), offset=len(address), flags=flags)
        return self.finish(scene, sock, 1)

    def finish(self, scene, sock, count):
        """Runs a connect that may have a send linked to it."""
        with scene.judge("io_uring_enter"):
            results = self.submit(scene, count)
        if not results:
            return SILENT
        if results[0] != -errno.EINPROGRESS:
            check(results[0])
        elif not scene.finish(sock):
            return SILENT
        if count == 1:
            return scene.say(sock)
        check(results[1])
        return scene.hear(sock)

    def submit(self, scene, count):
        """Submits, and waits no longer than the scene has patience; the results in their order, or none."""
        flags = WAKEUP if self.flags & SQPOLL else 0
        called(libc.syscall(ENTER, self.fd, count, 0, flags, None, 0), "io_uring_enter")
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        results = {}
        while len(results) < count:
            if not poll.poll(scene.patience * 1000):
                return []
            head = self.word(self.cq_head)
            while head != self.word(self.cq_tail):
                at = self.cqes + (head & self.word(self.cq_mask)) * 16
                user, result, _ = struct.unpack_from("=QiI", self.ring, at)
                results[user] = result
                head += 1
                struct.pack_into("=I", self.ring, self.cq_head, head)
        return [results[key] for key in sorted(results)]


def check(result):
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def sockaddr(sock, to):
    """The address as the kernel reads it."""
    if sock.family == socket.AF_INET:
        return struct.pack("=H", 2) + struct.pack("!H", to[1]) + socket.inet_aton(to[0]) + bytes(8)
    host = socket.inet_pton(socket.AF_INET6, to[0])
    scope = to[3] if len(to) > 3 else 0
    return struct.pack("=H", 10) + struct.pack("!HI", to[1], 0) + host + struct.pack("=I", scope)
