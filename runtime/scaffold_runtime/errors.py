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
import errno
import functools
import io
import os
import re
import select
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PACKAGE = os.path.dirname(__file__)


class ScaffoldRuntimeError(Exception):
    """Root of the tree: catch this to catch everything the runtime raises on purpose."""

    exit_code = 1  # of a command that ends with this error


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
        call = owner if isinstance(owner, str) else type(owner).__name__
        raise MisconfigurationException(
            f"{call}({argument}={value!r}): choose {', '.join(others)} or {last}."
        )


def check_local(owner: str, path: Any) -> None:
    """Refuse the URL of a remote store, which would become the name of a local folder.

    Raises:
        MisconfigurationException: with what to do instead.
    """
    if re.match(r"\w[\w+.-]+://", str(path)):
        raise MisconfigurationException(
            f"{owner}={str(path)!r}: only local files can be written and read. Mount the store, or copy what "
            "is saved, in `on_train_end` or a CheckpointIO of your own."
        )


class Moved:
    """An attribute that Lightning has and this package has elsewhere: reading it raises an error that says where."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __set_name__(self, owner: type, name: str) -> None:
        self.message = f"{owner.__name__} has no `{name}`: use {self.place}."

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AttributeError(self.message)


class MovedAway(Moved):
    """A `Moved` attribute that cannot be set either, since setting it would have no effect."""

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self.message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean `x`?" for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def not_logged(owner: object, monitor: str, known: Iterable[str]) -> MisconfigurationException:
    """The error to raise if `owner` monitors a name that is not among those `known`."""
    hint = did_you_mean(monitor, known)
    if monitor.startswith("val") and not any(name.startswith("val") for name in known):
        hint = " Is there a validation loader, and a `validation_step` that logs it?"
    return MisconfigurationException(
        f"{type(owner).__name__} monitors {monitor!r}, which is not logged.{hint} "
        f"Logged so far: {', '.join(sorted(known)) or 'nothing'}."
    )


def leave_to_launcher(error: BaseException) -> None:
    """Let this process not print `error`, since the process that started this one does."""
    shown = sys.excepthook

    def hook(kind: Any, value: BaseException, trace: Any) -> None:
        if not said_elsewhere(value):
            shown(kind, value, trace)

    sys.excepthook = hook
    error.__dict__["said_elsewhere"] = True


def said_elsewhere(error: BaseException | None) -> bool:
    """Whether another process prints `error`."""
    return getattr(error, "said_elsewhere", False)


def noted(error: BaseException, note: str) -> BaseException:
    """Add a note to `error`, which tracebacks show; `add_note` itself needs Python 3.11."""
    vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]
    return error


def how_to_install(error: BaseException) -> str:
    """A hint if `error` is a missing package; otherwise an empty string."""
    absent = isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name
    how = "`pip install -e .` installs what pyproject.toml lists; add it there if it is new."
    return f"\n  {how}" if absent else ""


def plain_imports() -> None:
    """Also turn an import that fails at the top of a script, outside of `plain_errors`, into one line."""
    shown = sys.excepthook

    def hook(kind: Any, error: BaseException, trace: Any) -> None:
        said = _in_one_line(error) if isinstance(error, ImportError) else None
        if said is None or os.environ.get("SCAFFOLD_TRACEBACK"):
            shown(kind, error, trace)
        if said:
            sys.stderr.write(f"{said[0]}\n")

    sys.excepthook = hook


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors and warnings of the runtime into one line, and errors into an exit code; also an argument that one of
    torch's classes refuses, such as a negative learning rate, and a file that the runtime cannot read or write. For
    any other error the traceback shows the calls of the project and of libraries, without those of the runtime.

    Raises:
        SystemExit: with 2 for a wrong configuration, 1 for any other of these errors, 130 for Ctrl-C.
    """
    formatted, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        yield
    except KeyboardInterrupt:
        _print_and_exit("\ninterrupted", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():  # as after `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for buffered output
            _print_and_exit("error: stopped, since nothing reads the output any more.", 1)
        said = _in_one_line(error)
        if said is None:
            _remove_runtime_calls(error)
            raise
        _print_and_exit(*said)
    finally:
        warnings.formatwarning = formatted


def _stdout_is_closed() -> bool:
    """Whether the broken pipe is stdout, and not one of the project's own."""
    if not hasattr(select, "poll"):  # Windows
        return True
    with suppress(OSError):  # stdout may be replaced by an object without a file
        looks = select.poll()
        looks.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in looks.poll(0))
    return False


def _in_one_line(error: Exception) -> tuple[str, int] | None:
    """The line to print instead of a traceback, and the exit code; None if the traceback is needed."""
    if isinstance(error, ScaffoldRuntimeError):
        return f"error: {error}", error.exit_code
    if how := how_to_install(error):
        call = _last_call(error)
        return f"error: {_relative(call.filename)}, line {call.lineno}: {error}{how}", 1
    if isinstance(error, ValueError) and _refused_by_torch(error):
        return f"error: {_line_of_project(error)}{error}", 1
    if isinstance(error, OSError) and error.filename and _of_runtime(_last_call(error).filename):
        return f"error: {error.filename}: {error.strerror}", 1
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        return f"error: cannot write {_unwritable_file(error)}: {error.strerror}", 1
    return None


def _unwritable_file(error: OSError) -> str:
    """The file that could not be written, found in local variables, since such an error does not name it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [it for f in frames for it in f.f_locals.values() if isinstance(it, io.IOBase)]
    return str(getattr(files[-1], "name", "a file")) if files else "the output"


def _remove_runtime_calls(error: Exception) -> None:
    """Remove the runtime's calls from the traceback, if the error is the project's."""
    by_worker = "in DataLoader worker process" in str(error)  # it has the project's calls
    ours = _of_runtime(_last_call(error).filename) and not by_worker
    if ours or os.environ.get("SCAFFOLD_TRACEBACK"):
        return
    call = error.__traceback__
    while call is not None:
        following = call.tb_next
        while following and _of_runtime(following.tb_frame.f_code.co_filename):
            following = following.tb_next
        call.tb_next, call = following, call.tb_next  # removed calls link on, too


def warn(message: str) -> None:
    """Warn, and point at the line of user code that led here, if there is one."""
    calls = traceback.walk_stack(sys._getframe())
    files = enumerate((frame.f_code.co_filename for frame, _ in calls), start=1)
    theirs = (level for level, file in files if not (_of_runtime(file) or _of_library(file)))
    warnings.warn(message, stacklevel=next(theirs, 2))


def _of_runtime(file: str) -> bool:
    return file.startswith(PACKAGE)


def _plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Format a warning with its line, but only if that is in the project, and not in the runtime or the script."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    silent = _of_runtime(filename) or filename == script
    here = "" if silent else f"{_relative(filename)}, line {lineno}: "
    return f"warning: {here}{message}\n"


def _refused_by_torch(error: ValueError) -> bool:
    """Whether the error was raised in the `__init__` of one of torch's loaders, optimizers or layers."""
    raised, torch = traceback.extract_tb(error.__traceback__)[-1], _folder_of_torch()
    places = tuple(os.path.join(torch, *p) for p in (("nn",), ("optim",), ("utils", "data")))
    return bool(torch) and raised.name == "__init__" and raised.filename.startswith(places)


def _folder_of_torch() -> str:
    return str(sys.modules["torch"].__path__[0]) if "torch" in sys.modules else ""


def _line_of_project(error: ValueError) -> str:
    """The line of the project that gave torch the value; empty if the runtime did."""
    given = _last_call(error)
    ours = _of_runtime(given.filename)
    return "" if ours else f"{_relative(given.filename)}, line {given.lineno}, `{given.line}`: "


def _last_call(error: Exception) -> traceback.FrameSummary:
    """The last call of the runtime or the project before the error."""
    calls = traceback.extract_tb(error.__traceback__)
    return [call for call in calls if not _of_library(call.filename)][-1]


def _relative(file: str) -> str:
    try:
        return os.path.relpath(file)
    except ValueError:  # on another drive
        return file


@functools.cache
def _of_library(file: str) -> bool:
    import sysconfig  # only needed after a failure

    libraries = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
    beside_torch = os.path.dirname(_folder_of_torch()) or libraries[0]
    theirs = file.startswith((*libraries, beside_torch, "<frozen"))
    return theirs and not _of_runtime(file)


def _print_and_exit(line: str, code: int) -> None:
    if not said_elsewhere(sys.exc_info()[1]):
        if os.environ.get("SCAFFOLD_TRACEBACK"):
            traceback.print_exc()
        sys.stderr.write(f"{line}\n")
    raise SystemExit(code) from None


def hide_passwords(text: str) -> str:
    """`text` with the passwords in its URLs hidden: "https://me:***@host". In http URLs a name alone may be a token, so
    it is hidden, too, except "git"; in others, such as "ssh://me@host", it is a user name."""
    text = re.sub(r"(https?://)(?!git@)[^/?#\s:@]+@", r"\1***@", text)
    return re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)
