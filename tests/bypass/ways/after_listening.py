"""Connects a socket that has listened before, and so has been judged as an answerer."""

import socket

from corpus import TCP

PATHS = TCP


def call(scene, sock):
    sock.bind((scene.loopback, 0))
    sock.listen()
    sock.shutdown(socket.SHUT_RD)
    return scene.talk(sock)
