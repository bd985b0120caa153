"""Makes a UDP-Lite socket, whose packets are datagrams of another protocol."""

from corpus import IPPROTO_UDPLITE, UDP, Absent

PATHS = UDP
CONTROL = "UDP-Lite between two services of one host is refused: README names it"


def source(scene):
    try:
        return scene.socket(IPPROTO_UDPLITE)
    except OSError as error:
        if error.errno == 93:
            raise Absent("no UDP-Lite") from error
        raise
