"""Becomes another program by execve before it calls; the socket is inherited."""

import os

from corpus import ANSWERED, EVERY, SILENT, true_pid

PATHS = EVERY
PROGRAM = """
import select, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(False)
failed = sock.connect_ex((sys.argv[2], int(sys.argv[3])))
poll = select.poll()
def ready(event):
    poll.register(sock, event)
    return poll.poll(float(sys.argv[5]) * 1000)
if failed == 115:
    failed = sock.getsockopt(1, 4) if ready(select.POLLOUT) else 115
try:
    if not failed:
        sock.send(sys.argv[4].encode())
        failed = 0 if ready(select.POLLIN) else 115
except OSError as error:
    failed = error.errno
# Before a segment that nobody has answered is sent again, which takes a second.
sock.close()
sys.exit(failed)
"""


def call(scene, sock):
    sock.set_inheritable(True)
    host, port = scene.to()[:2]
    words = [str(sock.fileno()), host, str(port), scene.token.decode(), str(scene.patience)]
    reader, writer = os.pipe()
    with scene.judge("execve"):
        pid = os.fork()
        if pid == 0:
            os.write(writer, str(true_pid()).encode())
            os.execv("/usr/bin/python3", ["python3", "-ISc", PROGRAM, *words])
        sock.close()
        scene.pids.append(int(os.read(reader, 16)))
        failed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    scene.took = 0
    if failed == 115:
        return SILENT
    if failed:
        raise OSError(failed, os.strerror(failed))
    return ANSWERED
