"""Record a short terminal session as docs/session.svg: real commands, real output, 80 columns."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
SESSION = [
    "scaffold new my-exp --defaults",
    "cd my-exp",
    "scaffold add callback ema",
    "sed -i 's/decay: 0.99/decay: 0.999  # mine/' configs/callbacks/ema.yaml",
    "scaffold diff",
    "scaffold remove callback ema",
    "scaffold undo",
]


def output(command: str, folder: Path) -> str:
    """The output of a command on a terminal of 80 columns, with colours."""
    ours, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "80", "TERM": "xterm-256color"}
    child = subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    if child.wait():
        raise SystemExit(f"{command} failed:\n{shown.decode()}")
    return shown.decode().replace("\r\n", "\n")


def main() -> None:
    with TemporaryDirectory() as scratch, open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, file=nowhere, force_terminal=True)
        folder = Path(scratch)
        for command in SESSION:
            console.print(Text("$ ", style="green") + Text(command, style="bold"))
            if command.startswith("cd "):
                folder /= command.removeprefix("cd ")
            else:
                console.print(Text.from_ansi(output(command, folder)))
        console.save_svg(str(ROOT / "docs" / "session.svg"), title="scaffold")


if __name__ == "__main__":
    main()
