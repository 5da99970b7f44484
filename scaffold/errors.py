"""Exceptions, with their exit codes.

ScaffoldError 1
├── DescriptionError 1
├── ConflictError 2
├── NotAProjectError 3
└── CancelledError 130

Messages say what, where and how to fix it, in one to three lines.
"""

from collections.abc import Sequence


class ScaffoldError(Exception):
    exit_code = 1


class ConflictError(ScaffoldError):
    exit_code = 2

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class DescriptionError(ScaffoldError):
    """The file that describes a task or a feature has a mistake."""


class NotAProjectError(ScaffoldError):
    exit_code = 3


class CancelledError(ScaffoldError):
    exit_code = 130
