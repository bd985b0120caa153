"""Takes over an open connection from somebody who may call (SCM_RIGHTS)."""

from corpus import TCP, pass_fd, take_fd

PATHS = [*TCP, "v4/udp", "v6/udp"]
OPEN = "handed-over-socket: whoever hands an open connection to another hands over its rights"


def attempt(scene):
    def owner(channel):
        sock = scene.socket()
        scene.connect(sock)
        pass_fd(channel, sock)

    scene.channel = scene.role(scene.helper, owner)
    return scene.say(take_fd(scene.channel))
