"""The command lines of all processes of this machine, while something runs: none has a secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def commands(seen: set[str], every_s: float) -> Iterator[None]:
    """Add to `seen` the commands that run meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            for command in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(command.read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    continue

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
