"""Every error the runtime raises on purpose.

ScaffoldRuntimeError
├── MisconfigurationException   settings, hooks or data that cannot work together (Lightning's name)
├── MissingExtra                an optional package is not installed
├── RankFailed                 another process of a distributed run failed; the message has its traceback
├── StepError                   something went wrong while training, validating, testing or predicting
└── CheckpointError             a checkpoint cannot be written, found, trusted or applied

A message says what was given, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class ScaffoldRuntimeError(Exception):
    """Root of the tree: catch this to catch everything the runtime raises on purpose."""

    exit_code = 1  # of a command that it ends


class MisconfigurationException(ScaffoldRuntimeError):  # noqa: N818 - the name people catch
    """Settings, hooks or data that cannot work together."""


class MissingExtra(ScaffoldRuntimeError, ImportError):  # noqa: N818 - says what it is
    """An optional package is needed and not installed; the message has the install command."""


class StepError(ScaffoldRuntimeError, RuntimeError):
    """A training, validation, test or prediction step did something the loop cannot use."""


class RankFailed(ScaffoldRuntimeError, RuntimeError):  # noqa: N818 - says what happened
    """Another process of a distributed run failed; the message has its traceback."""


class CheckpointError(ScaffoldRuntimeError, RuntimeError):
    """A checkpoint cannot be written, found, trusted or applied; the message names the file."""


def check_choice(owner: object, argument: str, value: object, *allowed: object) -> None:
    """Refuse an argument of `owner` that is none of those allowed.

    Raises:
        MisconfigurationException: with the choices.
    """
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise MisconfigurationException(
            f"{type(owner).__name__}({argument}={value!r}): choose {', '.join(others)} or {last}."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean `x`?" for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def not_logged(owner: object, monitor: str, known: Iterable[str]) -> MisconfigurationException:
    """What to raise where `owner` monitors a name that is not among those `known`."""
    return MisconfigurationException(
        f"{type(owner).__name__} monitors {monitor!r}, which is not logged.{did_you_mean(monitor, known)} "
        f"Logged so far: {', '.join(sorted(known)) or 'nothing'}."
    )


def leave_to_launcher(error: BaseException) -> None:
    """The process that started this one prints `error`, so this one does not."""
    shown = sys.excepthook

    def hook(kind: Any, value: BaseException, trace: Any) -> None:
        if not said_elsewhere(value):
            shown(kind, value, trace)

    sys.excepthook = hook
    error.__dict__["said_elsewhere"] = True


def said_elsewhere(error: BaseException | None) -> bool:
    """Whether another process prints `error`."""
    return getattr(error, "said_elsewhere", False)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors that the runtime raises on purpose into one line and an exit code.

    Raises:
        SystemExit: with 2 for a wrong configuration, 1 for any other error of ours, 130 for Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("\ninterrupted", 130)
    except ScaffoldRuntimeError as error:
        _leave(f"error: {error}", error.exit_code)


def _leave(line: str, code: int) -> None:
    if not said_elsewhere(sys.exc_info()[1]):
        if os.environ.get("SCAFFOLD_TRACEBACK"):
            traceback.print_exc()
        sys.stderr.write(f"{line}\n")
    raise SystemExit(code) from None


def hide_passwords(text: str) -> str:
    """`text` without the passwords of the addresses in it: "https://me:***@host"."""
    return re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)
