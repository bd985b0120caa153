"""Calls from a cgroup that it has made below its own a moment ago, which no table has heard of."""

import os

from corpus import EVERY

PATHS = EVERY


def stage(scene):
    name = f"new-{os.getpid()}"
    top = f"/proc/self/fd/{scene.cgroups['root']}/{scene.caller}"
    os.mkdir(f"{top}/{name}")
    scene.cgroups["new"] = os.open(f"{top}/{name}/cgroup.procs", os.O_WRONLY)
    scene.made = name


def source(scene):
    scene.enter("new")
    return scene.socket()
