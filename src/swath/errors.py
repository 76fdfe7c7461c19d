"""What a user is told when something is wrong: one line with what, where and the mend.

The tree:
    SwathError
    ├── ConfigError   the experiment's configuration
    ├── DataError     archives, scenes, patch sets, manifests
    ├── LeakError     a split that failed its audit
    ├── RunError      training, prediction, a device that is not there
    ├── StoreError    an object store that refuses, or cannot be reached
    └── StoppedError  a run that was asked to stop, and goes on when it is started again

A verb that is refused ends with exit code 2, one that was stopped with 85.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SwathError(Exception):
    """An error that a user can mend; its text is always one line."""

    exit_code = 2
    """With which a verb ends."""

    def __init__(self, what: str, *, where: object = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, str(where), mend
        super().__init__(" ".join((f"{self.fault}; {mend}" if mend else self.fault).split()))

    @property
    def fault(self) -> str:
        """What is wrong and where, without the mend."""
        return f"{self.where}: {self.what}" if self.where else self.what


class ConfigError(SwathError):
    """A key, value or name in the configuration that cannot be used."""


class DataError(SwathError):
    """Data that are missing, damaged, or not what their card says."""


class LeakError(SwathError):
    """A split whose parts are not independent of each other."""


class RunError(SwathError):
    """Training or prediction that cannot go on."""


class StoreError(SwathError):
    """An object store that refuses, or cannot be reached."""


class StoppedError(SwathError):
    """A run that was stopped before its end, at a checkpoint from which it goes on."""

    exit_code = 85  # no signal's (128 + n), nor one that shells or sysexits.h give a meaning


def nearest(word: str, known: Iterable[str]) -> str:
    """A mend that names what was probably meant, or else all that there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"there is {', '.join(known)}" if known else "there is none"
