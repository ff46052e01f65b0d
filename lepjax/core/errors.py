"""One kind of error for users, one place that prints it, and the exit codes of every command."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable

DONE = 0
BUG = 70  # EX_SOFTWARE
RESTART = 75  # EX_TEMPFAIL: the same command continues the work
CONFIGURATION = 78  # EX_CONFIG


class UserError(Exception):
    """Something the user can mend.

    `found` says what is wrong, `where` names the file, line, key or leaf, and `fix` tells what to do.
    """

    def __init__(self, found: str, *, where: str = "", fix: str = "") -> None:
        self.found, self.where, self.fix = found, where, fix
        super().__init__(found, where, fix)

    def __reduce__(self) -> tuple[Callable[..., UserError], tuple[str, str, str]]:
        return _user_error, (self.found, self.where, self.fix)  # errors travel between processes

    def __str__(self) -> str:
        line = f"{self.where}: {self.found}" if self.where else self.found
        if self.fix:
            line = f"{line.rstrip('.')}. {self.fix}"
        return " ".join(line.split())


def _user_error(found: str, where: str, fix: str) -> UserError:
    return UserError(found, where=where, fix=fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """'Did you mean ...?' for the closest of `known`, else the list of what is known."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]}?"
    return "Known: " + ", ".join(options) + "."


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and turns what it raises into one line and an exit code.

    Returns the command's own code, 78 for a `UserError`, 75 for an interrupt, 70 for a bug (with its traceback,
    because a bug is ours and not the user's to guess at).
    """
    try:
        return command()
    except UserError as error:
        print(f"lepjax: {error}", file=sys.stderr)
        return CONFIGURATION
    except KeyboardInterrupt:
        print("lepjax: interrupted before the first step; nothing to save.", file=sys.stderr)
        return RESTART
    except BrokenPipeError:  # `lepjax explain ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception:
        traceback.print_exc()
        print("lepjax: this is a bug in lepjax or in the experiment, not in how it was called.", file=sys.stderr)
        return BUG
