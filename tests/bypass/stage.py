"""Makes the attempts that it is told of, each in a process of its own, and tells how each ended."""

import errno
import gc
import importlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import traceback

import corpus
from corpus import Absent, Scene, drop, libc

PR_SET_CHILD_SUBREAPER = 36
KINDS = ("ways", "sources", "destinations", "plays")


def load():
    """Every technique: `kind/name` and its module."""
    here = pathlib.Path(__file__).parent
    names = sorted(f"{kind}/{path.stem}" for kind in KINDS for path in (here / kind).glob("*.py"))
    return {name: importlib.import_module(name.replace("/", ".")) for name in names}


def describe(module):
    """What the run has to know of a technique."""
    kept = ("PATHS", "NEEDS", "CALLER", "SOURCE", "OPEN", "BARE", "CONTROL", "RECORDS", "DATAGRAMS", "DRAWN", "LOTS", "ONEWAY", "REASON",
            "ALONE")
    told = {key.lower(): list(value) if isinstance(value, tuple) else value
            for key in kept if (value := getattr(module, key, None)) is not None}
    told["sentence"] = module.__doc__
    told["source"] = [told["source"]] if isinstance(told.get("source"), str) else told.get("source", [])
    return told


def play(scene, modules):
    """Runs one technique, or a way of calling with a source or a destination of another."""
    way = source = None
    for module in modules:
        if hasattr(module, "attempt"):
            return module.attempt(scene)
        way = getattr(module, "call", way)
        source = getattr(module, "source", source)
        if hasattr(module, "address"):
            scene.address = module.address
    # A way is loaded before the socket is made, a source may change who this process is.
    sock = source(scene) if source else scene.socket()
    return way(scene, sock) if way else scene.call(sock)


def attempt(order, techniques, cgroups, namespaces):
    modules = [techniques[name] for name in order["techniques"]]
    scene = Scene(order, cgroups, namespaces)
    try:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        for module in modules:
            if hasattr(module, "stage"):
                module.stage(scene)
        scene.enter(order["caller"])
        drop([name for module in modules for name in getattr(module, "NEEDS", ())])
        return scene.outcome(play(scene, modules))
    except Absent as absent:
        return scene.outcome("absent", text=str(absent))
    except OSError as error:
        return scene.outcome("errno", errno=errno.errorcode.get(error.errno, str(error)), text=str(error))
    except Exception:
        return scene.outcome("broken", text=traceback.format_exc()[-1500:])


def ring_bell(name):
    """Makes two attempts that are refused, and if something is broken at least one of them, under a name that tells in
    its record that all those before it have been read."""
    libc.prctl(15, name.encode(), 0, 0, 0)
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", corpus.PROXY))
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
    except PermissionError:
        pass


def perform(order, techniques, cgroups, namespaces):
    """Makes an attempt in a child, whose every descriptor and process ends with it."""
    # So that nobody gets by chance what a technique asks for.
    corpus.KEPT_PORTS.write_text(str(corpus.EPHEMERAL))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)
    else:
        os.close(reader)
        told = attempt(order, techniques, cgroups, namespaces)
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    # Other processes of the attempt may hold the pipe open; what is told is told in one piece.
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    # Reached only by a technique that is broken.
    told = os.read(reader, 65536) if poll.poll(order["deadline"]) else b""
    os.close(reader)
    end(pid)
    died = {"end": "broken", "call": "", "ms": 0, "pids": [pid], "closed": False, "pardoned": True, "text": "it died"}
    told = json.loads(told) if told else died
    # What comes next is judged by the usual policy, however this ended.
    if order["apply"] and told.pop("pardoned"):
        subprocess.run(order["apply"]["usual"], capture_output=True, check=True)
    if order["bell"]:
        ring_bell(order["bell"])
    return told


def end(group):
    """Ends every process of an attempt and waits until each is gone, since any may hold the ports that the next one asks for."""
    try:
        os.killpg(group, signal.SIGKILL)
        while True:
            # Those whose parent has ended are children of this process, which is their reaper.
            os.waitpid(-group, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def build():
    """Furnishes this network namespace, and lays a cable from it to another one. Who is at its end need not be asked, so that a
    packet is there when the call that sent it returns."""
    annex = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    annex.stdout.readline()
    run(["ip", "-batch", "-"], f"""
link set lo mtu 1500
link add near address {corpus.NEAR_DEVICE} type veth peer name far address {corpus.FAR_DEVICE} netns {annex.pid}
link set near up
address add {corpus.NEAR}/30 brd + dev near
address add {corpus.NEAR6}/64 dev near nodad
address add {corpus.LINK_LOCAL}/64 dev near nodad
neighbour add {corpus.FAR} lladdr {corpus.FAR_DEVICE} dev near
neighbour add {corpus.FAR6} lladdr {corpus.FAR_DEVICE} dev near
neighbour add {corpus.BEYOND6} lladdr {corpus.FAR_DEVICE} dev near
route add {corpus.BEYOND6}/128 dev near
address add 100.65.0.1/32 dev lo
address add fd00:8::1/128 dev lo
route add local 198.18.0.0/24 dev lo
route add local fd00:9::/64 dev lo
route add default via {corpus.FAR}
""")
    # A device that leads to other hosts, where the kernel has such; the enforcer has taken it in when it is used.
    tried(["ip", "-batch", "-"], f"""
tuntap add mode tun name {corpus.TUN}
link set {corpus.TUN} up
address add 100.66.0.1/24 dev {corpus.TUN}
address add fd00:66::1/64 dev {corpus.TUN} nodad
""")
    vrf = tried(["ip", "-batch", "-"], f"""
link add {corpus.VRF} type vrf table 10
link set {corpus.VRF} up
address add {corpus.IN_VRF}/32 dev {corpus.VRF}
""")
    if not vrf.returncode:
        # A socket that is bound to no device takes what comes in by a VRF only if it is told to.
        for transport in ("tcp", "udp"):
            pathlib.Path(f"/proc/sys/net/ipv4/{transport}_l3mdev_accept").write_text("1")
    run(["nsenter", f"--net=/proc/{annex.pid}/ns/net", "ip", "-batch", "-"], f"""
link set lo up
link set far up
address add {corpus.FAR}/30 dev far
address add {corpus.FAR6}/64 dev far nodad
""")
    run(["nft", "-f", "-"], f"""
table inet crossing {{
  set seen {{ typeof tcp sequence; flags dynamic; size 4096; }}
  chain out {{
    type filter hook output priority 0
    tcp sport {corpus.CROSSING_BACK} tcp dport {corpus.CROSSING} tcp flags & (syn | ack) == syn \\
      tcp sequence != @seen add @seen {{ tcp sequence }} drop
  }}
}}
table ip door {{
  chain out {{
    type nat hook output priority -100
    tcp dport {corpus.DOOR} redirect to :{corpus.BEHIND}
    udp dport {corpus.DOOR} redirect to :{corpus.BEHIND}
  }}
}}
""")
    pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    return annex


def tried(command, script):
    """Runs a command of which this kernel may not have all."""
    return subprocess.run(command, input=script, text=True, capture_output=True, check=False)


def run(command, script):
    done = tried(command, script)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}of:{script}")


def main():
    root = pathlib.Path(sys.argv[1])
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    techniques = load()
    annex = build()
    cgroups = {"root": os.open(root, os.O_PATH)}
    for path in root.iterdir():
        if path.is_dir():
            cgroups[path.name] = os.open(path / "cgroup.procs", os.O_WRONLY)
    for path in (root / "pool").iterdir():
        if path.is_dir():
            (path / "cgroup.type").write_text("threaded")
            cgroups[f"pool/{path.name}"] = os.open(path / "cgroup.threads", os.O_WRONLY)
    (pending,) = (path for path in (root / "docker").iterdir() if path.is_dir())
    cgroups["pending"] = os.open(pending / "cgroup.procs", os.O_WRONLY)
    namespaces = {"annex": os.open(f"/proc/{annex.pid}/ns/net", os.O_RDONLY)}
    print(json.dumps({name: describe(module) for name, module in techniques.items()}), flush=True)
    # What is there now is shared by all who are forked off, and stays so while nobody looks for garbage in it.
    gc.collect()
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(perform(order, techniques, cgroups, namespaces)), flush=True)


main()
