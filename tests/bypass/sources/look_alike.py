"""Calls from a cgroup below its own that bears the name of somebody who may call."""

import os

from corpus import EVERY

PATHS = EVERY


def stage(scene):
    top = f"/proc/self/fd/{scene.cgroups['root']}/{scene.caller}/{scene.helper}"
    os.makedirs(top, exist_ok=True)
    scene.cgroups["new"] = os.open(f"{top}/cgroup.procs", os.O_WRONLY)


def source(scene):
    scene.enter("new")
    return scene.socket()
