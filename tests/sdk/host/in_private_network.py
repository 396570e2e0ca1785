"""Run a command where loopback is the only network, and print what it left behind as JSON.

To be run under ``unshare --map-root-user --net --mount``: python in_private_network.py HOME COMMAND...
The name server is a socket of this process, so that each look-up is seen whoever makes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SETTLE_S = 1.5  # background threads report a moment after the import


def main(home: str, *command: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        fcntl.ioctl(plain, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    resolver = Path(tempfile.mkdtemp()) / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    names: list[str] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=listen, args=(server, names), daemon=True).start()
    done = subprocess.run(
        command, env={**os.environ, "HOME": home}, capture_output=True, text=True, check=False
    )
    time.sleep(0.2)
    files = sorted(str(path.relative_to(home)) for path in Path(home).rglob("*") if path.is_file())
    print(json.dumps({"code": done.returncode, "stderr": done.stderr, "names": names, "files": files}))


def listen(server: socket.socket, names: list[str]) -> None:
    """Record every name asked for; nobody answers."""
    while True:
        question = server.recv(512)[12:]
        parts = []
        while question and question[0]:
            parts.append(question[1 : 1 + question[0]].decode("latin-1"))
            question = question[1 + question[0] :]
        names.append(".".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
