"""Random histories of a project: whatever the user and the command do, no line gets lost.

Every edit brings in a line that exists nowhere else. After each step each of these lines is in some
file of the tree, unless the user threw it away.
"""

import contextlib
import functools
import io
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scaffold import change, cli, create, journal, transition
from scaffold.catalogue import Catalogue
from scaffold.merge import CLOSE, EQUALS, MIDDLE, OPEN
from scaffold.render import render

GENERATIONS = Path(__file__).parent / "generations"
CALLBACKS = st.sampled_from(["ema", "secret", "stop"])
POLICIES = st.sampled_from(["fail", "markers", "mine"])
FEATURE_FILES = ["configs/callbacks/ema.yaml", "configs/callbacks/stop.yaml", "secret.yaml"]
NUMBERS = st.integers(0, 1_000)


@functools.cache
def _rendered(answers: bytes, root: Path, still_used: tuple[str, ...]):
    from scaffold.answers import from_yaml

    catalogue = Catalogue(root)
    return render(from_yaml(answers), catalogue, [catalogue.named(each) for each in still_used])


def rendered(
    answers, catalogue, still_used=(), base=None
):  # which saves time only, as the cache does
    """Rendering gives the same for the same answers, so once is enough."""
    from scaffold.answers import to_yaml

    names = tuple(f"{part.kind}/{part.name}" for part in still_used)
    return _rendered(to_yaml(answers), catalogue.root, names)


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path.cwd()
        self.folder = tempfile.mkdtemp()
        os.chdir(self.folder)
        self.alive: set[bytes] = set()
        self.count = 0
        self.version = 1
        self.done: list[object] = []
        transition.render = create.render = rendered
        self.fsync, os.fsync = os.fsync, lambda _: None  # nobody pulls the plug here

    def teardown(self) -> None:
        os.chdir(self.home)
        shutil.rmtree(self.folder)
        transition.render = create.render = render
        os.fsync = self.fsync
        cli.packaged = change.packaged = self.packaged

    @initialize()
    def new(self) -> None:
        self.packaged = cli.packaged
        cli.packaged = change.packaged = lambda: Catalogue(
            GENERATIONS / f"0.0.{self.version}", f"0.0.{self.version}"
        )
        self.command("new", "my-exp", "--no-git")
        os.chdir("my-exp")

    def command(self, *words: str) -> int:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                cli.main(list(words))
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
        assert "Traceback" not in out.getvalue()
        self.done.append((words, code))
        assert code in (0, 1, 2), out.getvalue()
        return code

    # what the user does

    @rule(number=NUMBERS, line=NUMBERS)
    def edit(self, number: int, line: int) -> None:
        """Insert a new line anywhere in any text file."""
        path = self.some(number)
        lines = path.read_bytes().split(b"\n")
        lines.insert(line % (len(lines) + 1), self.token())
        path.write_bytes(b"\n".join(lines))

    @rule(number=NUMBERS)
    def edit_the_end(self, number: int) -> None:
        path = self.some(number)
        path.write_bytes(path.read_bytes() + b"\n" + self.token())

    @rule(number=NUMBERS, line=NUMBERS)
    def rewrite_a_line(self, number: int, line: int) -> None:
        path = self.some(number)
        lines = path.read_bytes().split(b"\n")
        self.alive -= {lines[line % len(lines)].rstrip(b"\r")}
        lines[line % len(lines)] = self.token()
        path.write_bytes(b"\n".join(lines))

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        path = self.some(number)
        path.unlink()
        self.alive &= self.found()

    @rule(number=NUMBERS, to=st.sampled_from(["own.py", "sub/größe x.yaml", "a.md"]))
    def rename(self, number: int, to: str) -> None:
        if not Path(to).exists() and not Path("sub").is_file():
            Path(to).parent.mkdir(exist_ok=True)
            self.some(number).rename(Path(to).with_suffix(self.some(number).suffix))
            self.alive &= self.found()

    @rule(number=NUMBERS)
    def to_crlf(self, number: int) -> None:
        path = self.some(number)
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    @rule(number=NUMBERS)
    def chmod(self, number: int) -> None:
        path = self.some(number)
        path.chmod(path.stat().st_mode ^ 0o111)

    @rule(path=st.sampled_from([*FEATURE_FILES, "CITATION.cff", "my_exp/blocks.py", "CHANGES.md"]))
    def own_file_where_one_may_come(self, path: str) -> None:
        if not Path(path).exists():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(self.token() + b"\n")

    @rule(number=NUMBERS)
    def replace_by_a_link(self, number: int) -> None:
        path = self.some(number)
        elsewhere = Path(f"elsewhere{self.count}{path.suffix}")
        path.rename(elsewhere)
        path.symlink_to(elsewhere.resolve())
        self.count += 1

    @rule()
    def take_markers_out(self) -> None:
        for path in self.texts():
            lines = path.read_bytes().splitlines(keepends=True)
            markers = (OPEN, MIDDLE, EQUALS, CLOSE)
            path.write_bytes(b"".join(line for line in lines if line.strip() not in markers))

    # what the command does

    @rule(name=CALLBACKS, policy=POLICIES)
    def add(self, name: str, policy: str) -> None:
        self.command("add", "callback", name, "--conflict", policy)

    @rule(name=CALLBACKS, policy=POLICIES)
    def remove(self, name: str, policy: str) -> None:
        self.command("remove", "callback", name, "--conflict", policy)

    @precondition(lambda self: self.version < 3)
    @rule(policy=POLICIES)
    def update(self, policy: str) -> None:
        self.version += 1
        self.command("update", "--conflict", policy)

    @rule(policy=POLICIES)
    def undo(self, policy: str) -> None:
        self.command("undo", "--conflict", policy)

    @rule()
    def resolve(self) -> None:
        self.command("resolve")

    @rule(name=CALLBACKS, call=st.integers(0, 6))
    def killed_while_adding(self, name: str, call: int) -> None:
        """SIGKILL in the middle of writing; the next command cleans up."""
        child = os.fork()
        if child == 0:
            put, calls = journal._put, iter(range(100))
            kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
            journal._put = lambda *words: kill() if next(calls) == call else put(*words)
            with contextlib.suppress(BaseException):
                self.command("add", "callback", name, "--conflict", "mine")
            os._exit(0)
        os.waitpid(child, 0)
        assert self.alive <= self.found() | self.journaled()
        journal.recover(Path.cwd())

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.alive <= self.found(), (self.alive - self.found(), self.done)

    # how it is seen

    def token(self) -> bytes:
        self.count += 1
        token = b"# mine %d" % self.count
        self.alive.add(token)
        return token

    def texts(self) -> list[Path]:
        files = sorted(path for path in Path().rglob("*") if path.is_file())
        plain = (path for path in files if path.parts[0] != ".scaffold" and not path.is_symlink())
        return [path for path in plain if b"\0" not in path.read_bytes()]

    def some(self, number: int) -> Path:
        files = self.texts()
        return files[number % len(files)]

    def found(self) -> set[bytes]:
        return {line.strip() for path in self.texts() for line in path.read_bytes().split(b"\n")}

    def journaled(self) -> set[bytes]:
        written = Path(".scaffold/work/journal.json")
        changes = journal._unpacked(written.read_bytes()) if written.exists() else []
        before = (each.before.data for each in changes if each.before)
        return {line.strip() for data in before for line in data.split(b"\n")}


TestHistories = pytest.mark.slow(pytest.mark.timeout(900)(History.TestCase))
TestHistories.settings = settings(
    max_examples=200,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
