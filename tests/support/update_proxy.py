# SPDX-License-Identifier: BSD-2-Clause
"""A new godwit for `godwit update` that breaks where a test wants it to: runs the real one, with the main connection passed through
this process, message by message.

    python3 update_proxy.py WHAT MESSAGE WHEN GODWIT run --incoming fd:A+fd:B …

WHAT happens at the first MESSAGE, "before" or "after" it has arrived: "kill" ends the real one and "cut" breaks the connection;
"version" alters what the machine is described as. "delay" makes each message wait for a moment, whichever it is.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from migration_proxy import ANSWER, HELLO, TYPES, exactly, send_all

what, message, when, *command = sys.argv[1:]
place = command.index("--incoming") + 1
main, data = (int(part[3:]) for part in command[place].split("+"))
outer, (inner, theirs) = socket.socket(fileno=main), socket.socketpair()
os.set_inheritable(theirs.fileno(), True)
os.set_inheritable(main, False)
command[place] = f"fd:{theirs.fileno()}+fd:{data}"
new = subprocess.Popen(command, close_fds=False)
theirs.close()
os.close(data)


def end(status):
    """Both sides see it when all is said."""
    os._exit(status)


def break_now():
    if what == "kill":
        new.kill()
        new.wait()
        end(1)
    for connection in (outer, inner):
        connection.shutdown(socket.SHUT_RDWR)


def pump(come, go, begin):
    try:
        go.sendall(exactly(come, begin))
        while True:
            passed = []
            head = exactly(come, 8, passed)
            kind, _, length = struct.unpack("<HHI", head)
            body = exactly(come, length, passed)
            here = TYPES[kind] == message
            if what == "delay":
                time.sleep(0.1)
            if here and what == "version":
                body = body.replace(b'"version":2', b'"version":9')
            elif here and when == "before" and what in ("kill", "cut"):
                return break_now()
            send_all(go, struct.pack("<HHI", kind, 0, len(body)) + body, passed)
            if here and what in ("kill", "cut"):
                time.sleep(0.2)
                return break_now()
    except (OSError, ConnectionError):
        for connection in (outer, inner):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


threading.Thread(target=pump, args=(outer, inner, HELLO), daemon=True).start()
back = threading.Thread(target=pump, args=(inner, outer, ANSWER), daemon=True)
back.start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
status = new.wait()
back.join()  # its last words
end(status)
