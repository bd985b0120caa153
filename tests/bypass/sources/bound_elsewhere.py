"""Makes and binds the socket in the cgroup of somebody who may call, so that its port is that service's."""

from corpus import EVERY

PATHS = EVERY


def source(scene):
    scene.enter(scene.helper)
    sock = scene.socket()
    sock.bind((scene.loopback, 0))
    scene.enter(scene.caller)
    return sock
