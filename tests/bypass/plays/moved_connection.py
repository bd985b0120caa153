"""Connects in the cgroup of somebody who may call, and moves into its own with the connection open."""

from corpus import TCP

PATHS = [*TCP, "v4/udp", "v6/udp"]
OPEN = "handed-over-socket: an open connection is its owner's, and goes where its owner goes"


def attempt(scene):
    scene.enter(scene.helper)
    sock = scene.socket()
    scene.connect(sock)
    scene.enter(scene.caller)
    return scene.say(sock)
