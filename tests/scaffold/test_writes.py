"""`scaffold` writes only to the project and to temporary folders, as an audit hook shows."""

import os
import subprocess
import sys
from pathlib import Path

WATCH = """
import os, sys, tempfile
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
home, temporary, seen = os.getcwd(), os.path.realpath(tempfile.gettempdir()), []

def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and (args[2] or 0) & WRITES:
        seen.append(os.fsdecode(args[0]))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink"):
        seen.extend(os.fsdecode(path) for path in args[:2] if isinstance(path, (str, bytes)))

def stray(path):
    path = os.path.realpath(path)
    below = any(f"{path}{os.sep}".startswith(f"{top}{os.sep}") for top in (home, temporary))
    return not below and path != os.devnull

sys.dont_write_bytecode = True
sys.addaudithook(watch)
from scaffold.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
assert len(seen) > MINIMUM, seen
strays = sorted({path for path in seen if stray(path)})
sys.exit("stray writes: " + ", ".join(strays) if strays else code)
"""


def watched(*words: str, minimum: int = 20) -> None:
    code = WATCH.replace("MINIMUM", str(minimum))
    environment = {**os.environ, "TMPDIR": str(Path.cwd().parent / "temporary")}
    Path(environment["TMPDIR"]).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.listdir(environment["TMPDIR"]) == []


def test_new_writes_the_target_only(workplace):
    watched("new", "my-exp", "--defaults")
    assert os.listdir(workplace) == ["my-exp"]
    assert sorted(os.listdir(workplace.parent)) == ["temporary", "workplace"]


def test_add_and_undo_write_in_the_project_only(scaffold, workplace):
    scaffold("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    watched("add", "logger", "wandb")
    watched("undo", minimum=5)
    assert not Path("configs/loggers/wandb.yaml").exists()


def test_looking_writes_nothing(scaffold, workplace):
    scaffold("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    for words in (
        ["list"],
        ["diff"],
        ["update", "--dry-run"],
        ["add", "callback", "ema", "--dry-run"],
    ):
        assert scaffold(*words).code == 0
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*")} == before
