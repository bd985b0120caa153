"""Gives an IPv6 datagram socket an address of IPv4 to connect to, and sends without naming it again."""

from corpus import raw_connect, raw_in

PATHS = ["mapped/udp"]


def call(scene, sock):
    host, port = scene.to()[:2]
    with scene.judge("connect"):
        raw_connect(sock, raw_in(host.removeprefix("::ffff:"), port))
    return scene.say(sock)
