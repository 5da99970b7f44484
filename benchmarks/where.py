"""Where the overhead over the plain loop comes from: `make bench-where`, `make bench-where ROWS="import new"`.

`off`: the parts of a training step on the tiny MLP, plain and ours in turns, the tenth percentile of each; then the
engine's own share, with a model, optimizer and data that do nothing; then a profile of the engine's functions.
`import`, `startup`, `help`, `new`, `add`: what the process imports, and its time per package.
`ddp`: time per package of the first of two processes, and the engine's functions. `--write` updates the page.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from itertools import pairwise
from typing import Any

import bench
import models
import torch
from profiles import of_a_process, of_functions, of_two_ranks
from steps import OFF, Terminal, fitting, trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import scaffold_runtime
from scaffold_runtime import LightningModule

ROWS = ("off", "logs", "ddp", "import", "startup", "help", "new", "add")
BEGIN, END = "<!-- written by `make bench-where WRITE=1` -->", "<!-- end of where the time goes -->"
PARTS = ("data and zero", "forward", "backward", "optimizer", "after the step")
STEPS, ROUNDS = 1000, 6
clock = time.perf_counter
Stamps = list[list[float]]


class Module(LightningModule):
    """The tiny MLP; records when its step begins and ends."""

    def __init__(self, stamps: Stamps) -> None:
        super().__init__()
        self.network, self.stamps = models.mlp(), stamps

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.stamps[-1].append(clock())
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.stamps[-1].append(clock())
        return loss

    def configure_optimizers(self) -> Any:
        return Noting(self.stamps, self.parameters(), lr=0.01)


class Noting(torch.optim.SGD):
    def __init__(self, stamps: Stamps, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.stamps = stamps

    def step(self) -> None:  # type: ignore[override] # or it would be made a closure
        self.stamps[-1].append(clock())
        super().step()
        self.stamps[-1].append(clock())


class Draws:
    """The batches; drawing one starts a new list of time stamps."""

    def __init__(self, stamps: Stamps) -> None:
        self.stamps, self.indices = stamps, models.vectors(STEPS).indices

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.indices:
            self.stamps.append([clock()])
            yield batch

    def __len__(self) -> int:
        return len(self.indices)


def plain(module: Any, loader: Any) -> None:
    optimizer = module.configure_optimizers()
    for index, batch in enumerate(loader):
        optimizer.zero_grad()
        loss = module.training_step(batch, index)
        loss.backward()
        optimizer.step()


def ours(module: Any, loader: Any) -> None:
    trainer(scaffold_runtime, tempfile.gettempdir(), OFF).fit(module, loader)


def quietly(call: Callable[..., None], *arguments: Any) -> None:
    with redirect_stdout(Terminal()), redirect_stderr(Terminal()):
        call(*arguments)


def of_a_step() -> None:
    """Prints the microseconds of each part of a step, plain and ours."""
    dataset = models.vectors(STEPS).loader.dataset
    taken: dict[str, list[list[float]]] = defaultdict(list)
    for name, run in [("plain", plain), ("ours", ours)] * ROUNDS:
        stamps: Stamps = []
        quietly(run, Module(stamps), DataLoader(dataset, batch_sampler=Draws(stamps)))
        whole = [one for one in stamps if len(one) == 5][50:-1]
        for here, then in pairwise(whole):
            edges = [*here, then[0]]
            taken[name].append([1e6 * (b - a) for a, b in pairwise(edges)])
    print("| part of a step, µs | plain | ours |\n|---|---|---|")
    columns = [
        [fastest(part) for part in zip(*taken[name], strict=True)] for name in ("plain", "ours")
    ]
    for part, *figures in zip((*PARTS, "sum"), *([*c, sum(c)] for c in columns), strict=True):
        print(f"| {part} | {figures[0]:.1f} | {figures[1]:.1f} |")


def fastest(figures: Any) -> float:
    """The tenth percentile, which depends least on other load of the machine."""
    return sorted(figures)[len(figures) // 10]


def of_the_engine() -> None:
    """Prints the engine's own time per step: user code, optimizer and data do nothing."""

    class Idle(torch.optim.SGD):
        def step(self) -> None: ...  # type: ignore[override]
        def zero_grad(self, set_to_none: bool = True) -> None: ...

    class Nothing(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.loss = self.weight.detach().requires_grad_()

        def training_step(self, batch: int, batch_idx: int) -> Tensor:
            return self.loss

        def configure_optimizers(self) -> Any:
            return Idle(self.parameters(), lr=0.1)

    def microseconds(run: Callable[..., None]) -> float:
        began: list[float] = []

        def numbers() -> Iterator[int]:
            for number in range(20_000):
                if number % 500 == 0:
                    began.append(time.process_time())
                yield number

        quietly(run, Nothing(), Stream(numbers))
        return fastest([1e6 * (b - a) / 500 for a, b in pairwise(began)])

    without, with_engine = microseconds(plain), microseconds(ours)
    print(
        f"\nWith nothing to train, and the caches to itself, the engine takes {with_engine - without:.1f} µs a step "
        f"more than the plain loop ({with_engine:.1f} against {without:.1f})."
    )


class Stream:
    """A loader over the values of a function."""

    def __init__(self, give: Callable[[], Iterator[int]]) -> None:
        self.give = give

    def __iter__(self) -> Iterator[int]:
        return self.give()

    def __len__(self) -> int:
        return 20_000


def functions(logs: int) -> None:
    """Profiles training, by function of the engine; profiling makes calls look slower than they are."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        run = fitting("scaffold_runtime", models.mlp, logs, **OFF)
        quietly(profile.runcall, run, models.vectors(STEPS), folder)
    print()
    of_functions(pstats.Stats(profile), STEPS)


def of_steps(key: str) -> None:
    of_a_step()
    of_the_engine()
    functions(20 if key == "logs" else 0)


def explained(key: str) -> str:
    """The section of one row."""
    text = io.StringIO()
    explain = {"off": of_steps, "logs": of_steps, "ddp": lambda key: of_two_ranks()}
    with redirect_stdout(text):
        explain.get(key, of_a_process)(key)
    return f"### {key}\n\n{text.getvalue().strip()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time beside the plain loop goes.")
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)}; all if none is given")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        raise SystemExit(f"no row {', '.join(unknown)}. There are: {', '.join(ROWS)}.")
    if options.write and options.rows:
        raise SystemExit("the page shows all rows of one run: leave ROWS out with WRITE=1.")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parts = [f"{date.today()}, {bench.machine()}, `make bench-where`.\n"]
    for key in options.rows or ROWS:
        parts.append(explained(key))
        print(parts[-1], flush=True)
    if options.write:
        page = bench.ROOT / "docs" / "benchmarks.md"
        before, rest = page.read_text().split(BEGIN, 1)
        page.write_text("\n".join([before + BEGIN, *parts, END + rest.split(END, 1)[1]]))


if __name__ == "__main__":
    main()
