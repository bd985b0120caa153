"""Sockets of AF_RXRPC, for whose addresses Python has no form."""

import ctypes
import pathlib
import socket
import struct

from corpus import Absent, called, libc, raw_in, raw_in6

AF_RXRPC, SOL_RXRPC, RXRPC_USER_CALL_ID = 33, 272, 1


class Buffer(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("buffers", ctypes.c_void_p),
                ("number", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


def address(scene, service, host, port):
    """`struct sockaddr_rxrpc`."""
    transport = (raw_in if scene.family == "v4" else raw_in6)(host, port)
    return struct.pack("=HHHH", AF_RXRPC, service, socket.SOCK_DGRAM, len(transport)) + transport.ljust(28, b"\0")


def bound(scene):
    """A socket for calls; the kernel has a UDP socket for it from now on, at a port that it chose, and a thread."""
    try:
        sock = socket.socket(AF_RXRPC, socket.SOCK_DGRAM, scene.af)
    except OSError as error:
        if error.errno in (93, 97):
            raise Absent("no RxRPC") from error
        raise
    own = address(scene, 0, scene.any, 0)
    called(libc.bind(sock.fileno(), own, len(own)), "bind")
    return sock


def threads():
    """The processes by which the kernel sends."""
    names = ((int(path.parent.name), path.read_text()) for path in pathlib.Path("/proc").glob("[0-9]*/comm"))
    return [pid for pid, name in names if name.startswith("krxrpcio/")]


def call(scene, sock):
    """Begins a call of the vault with the token."""
    to = address(scene, 1, scene.loopback, scene.port)
    name, token = ctypes.create_string_buffer(to), ctypes.create_string_buffer(scene.token)
    buffer = Buffer(ctypes.addressof(token), len(scene.token))
    control = ctypes.create_string_buffer(struct.pack("=QiiQ", 24, SOL_RXRPC, RXRPC_USER_CALL_ID, 1), 24)
    message = Message(ctypes.addressof(name), len(to), ctypes.addressof(buffer), 1, ctypes.addressof(control), 24, 0)
    with scene.judge("sendmsg"):
        called(libc.sendmsg(sock.fileno(), ctypes.byref(message), 0), "sendmsg")
