"""The project of a test as a git repository."""

import subprocess


def git(*words: str) -> int:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", *identity, *words], capture_output=True).returncode


def commit(message: str) -> None:
    git("add", "-A")
    assert git("commit", "-qm", message) == 0
