"""Makes an MPTCP socket, whose subflows are made by the kernel and not by the call that a hook sees."""

import socket

from corpus import IPPROTO_MPTCP, TCP, Absent

PATHS = TCP


def source(scene):
    try:
        return scene.socket(IPPROTO_MPTCP)
    except OSError as error:
        raise Absent("no MPTCP") from error
