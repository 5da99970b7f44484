"""ProgressBar, RichProgressBar and TQDMProgressBar, on a terminal and in a file."""

from __future__ import annotations

import io
import itertools
from contextlib import redirect_stdout
from typing import Any

import pytest
from rich.progress import TextColumn

from scaffold_runtime.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from scaffold_runtime.callbacks.progress.progress_bar import REDRAW_SECONDS, results_table
from scaffold_runtime.errors import MisconfigurationException

BARS = [ProgressBar, RichProgressBar, TQDMProgressBar]


class Terminal(io.StringIO):
    """A fake terminal: it says that it is one, and keeps what was written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("scaffold_runtime.callbacks.progress.progress_bar.REDRAW_SECONDS", 0.0)
    return made


@pytest.fixture
def shown(regression) -> Any:
    class Shown(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("shown", 0.25, prog_bar=True)
            self.log("hidden", 0.75)
            if batch_idx == 1:
                self.print("a line in between")
            return loss

    return Shown


@pytest.mark.parametrize("kind", BARS)
def test_in_a_file_each_epoch_is_one_plain_line(
    kind: Any, shown, make_loader, make_trainer, capsys
) -> None:
    trainer = make_trainer(max_epochs=2, enable_progress_bar=True, callbacks=kind())

    trainer.fit(shown(), make_loader(6), make_loader(2))

    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split("  ")[:2] for line in lines if line.startswith("Epoch")] == [
        ["Epoch 1/2", "6/6"],
        ["Epoch 2/2", "6/6"],
    ]
    assert lines.count("a line in between") == 2
    assert "shown=0.25" in out and "hidden" not in out and "\x1b" not in out
    assert trainer.progress_bar_callback.is_enabled


@pytest.mark.parametrize("kind", BARS)
def test_in_a_file_a_long_epoch_has_a_line_a_minute(
    kind: Any, shown, make_loader, make_trainer, capsys, monkeypatch
) -> None:
    clock = itertools.count(0, 7)
    monkeypatch.setattr(
        "scaffold_runtime.callbacks.progress.progress_bar.time.monotonic", lambda: next(clock)
    )
    trainer = make_trainer(
        max_epochs=1, enable_progress_bar=True, callbacks=kind(), val_check_interval=10
    )

    trainer.fit(shown(), make_loader(60), make_loader(1))

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert 4 < len(lines) < 12
    counts = [int(line.split("  ")[1].split("/")[0]) for line in lines]
    assert counts == sorted(counts) and counts[-1] == 60


class Kernel(io.StringIO):
    """What stands for the output in a notebook: no terminal, and escapes mean nothing."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize("kind", BARS)
def test_in_a_notebook_a_bar_moves(
    kind: Any, shown, make_loader, make_trainer, monkeypatch
) -> None:
    bar = "scaffold_runtime.callbacks.progress.progress_bar.REDRAW_SECONDS_OF_NOTEBOOKS"
    monkeypatch.setattr(bar, 0.0)
    trainer = make_trainer(max_epochs=2, enable_progress_bar=True, callbacks=kind())

    with redirect_stdout(kernel := Kernel()):
        trainer.fit(shown(), make_loader(6), make_loader(2))

    out = kernel.getvalue()
    assert "\x1b[2K" not in out
    assert ("3/6" in out) == (kind is not RichProgressBar)
    last = overwritten(out).splitlines()
    assert len([line for line in last if line.startswith("Epoch")]) >= 1
    assert "a line in between" in [line.strip() for line in last]


def overwritten(text: str) -> str:
    """What a cell shows: after a carriage return, characters are replaced one by one."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines)


@pytest.mark.parametrize("kind", BARS)
def test_on_a_terminal_a_bar_moves(kind: Any, shown, make_loader, make_trainer, terminal) -> None:
    trainer = make_trainer(max_epochs=2, enable_progress_bar=True, callbacks=kind())

    with redirect_stdout(terminal):
        trainer.fit(shown(), make_loader(6), make_loader(2))

    out = terminal.getvalue()
    for part in ("Epoch 1/2", "3/6", "6/6", "Validation", "0.25", "a line in between\n"):
        assert part in out
    assert "hidden" not in out
    assert ("Epoch 1/2  ━" in out.replace("\r\x1b[2K", "\n")) == (kind is ProgressBar)
    assert out.endswith("\n")


def test_a_rich_bar_moves_where_rich_hides_the_terminal(
    shown, make_loader, make_trainer, terminal, monkeypatch
) -> None:
    """As rich does before 15: what stands for the output while a bar is open says that it is no terminal."""
    monkeypatch.setattr("rich.file_proxy.FileProxy.isatty", lambda proxy: False, raising=False)
    trainer = make_trainer(max_epochs=2, enable_progress_bar=True, callbacks=RichProgressBar())

    with redirect_stdout(terminal):
        trainer.fit(shown(), make_loader(6), make_loader(2))

    assert "Validation" in terminal.getvalue()


@pytest.mark.parametrize("kind", [RichProgressBar, TQDMProgressBar])
@pytest.mark.parametrize("leave", [True, False])
def test_leave_keeps_the_line_of_every_epoch(
    leave: bool, kind: Any, shown, make_loader, make_trainer, terminal
) -> None:
    trainer = make_trainer(max_epochs=3, enable_progress_bar=True, callbacks=kind(leave=leave))
    with redirect_stdout(terminal):
        trainer.fit(shown(), make_loader(6))

    kept = [line for line in terminal.getvalue().splitlines() if "it/s  shown=0.25" in line]
    assert len(kept) == (3 if leave else 1)
    assert "Epoch 3/3" in kept[-1]


@pytest.mark.parametrize("kind", BARS)
def test_disabled_or_off_it_draws_nothing(
    kind: Any, regression, make_loader, make_trainer, terminal
) -> None:
    off, disabled = kind(refresh_rate=0), kind()
    disabled.disable()
    for bar in (off, disabled):
        assert bar.is_disabled
        with redirect_stdout(terminal):
            make_trainer(enable_progress_bar=True, callbacks=bar).fit(
                regression(), make_loader(), make_loader()
            )
    assert terminal.getvalue() == ""
    disabled.enable()
    assert disabled.is_enabled


@pytest.mark.parametrize("kind", BARS)
def test_evaluation_and_prediction_have_bars_too(
    kind: Any, regression, make_loader, make_trainer, terminal
) -> None:
    trainer = make_trainer(enable_progress_bar=True, callbacks=kind())
    module = regression()

    with redirect_stdout(terminal):
        trainer.test(module, make_loader(4))
        trainer.predict(module, make_loader(4))

    out = terminal.getvalue()
    for part in ("Testing", "Predicting", "4/4", "Test results", "test_loss"):
        assert part in out


def test_results_show_every_value_of_every_loader() -> None:
    nan = {"nan": float("nan")}
    table = results_table(
        [{"loss": 1.0, "of all": 3.0, **nan}, {"loss": 2.0, "of all": 3.0, **nan}], "test"
    )
    assert table.splitlines() == [
        "Test results",
        "  loss    1",
        "  of all  3",
        "  nan     nan",
        "  loss    2",
    ]


@pytest.mark.parametrize("kind", BARS)
def test_a_subclass_chooses_what_is_shown(
    kind: Any, regression, make_loader, make_trainer, capsys
) -> None:
    class Mine(kind):  # type: ignore[misc] # one of three
        def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
            return {**super().get_metrics(trainer, pl_module), "extra": "yes"}

    make_trainer(enable_progress_bar=True, callbacks=Mine()).fit(regression(), make_loader())

    assert "extra=yes" in capsys.readouterr().out


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("kind", BARS)
def test_a_subclass_of_the_base_that_draws_itself_draws_alone(
    live: bool, kind: Any, regression, make_loader, make_trainer, terminal
) -> None:
    class Mine(kind):  # type: ignore[misc] # one of three
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            print("mine", args[-1])

    out = terminal if live else io.StringIO()
    with redirect_stdout(out):
        make_trainer(enable_progress_bar=True, callbacks=Mine()).fit(
            regression(), make_loader(2), make_loader(2)
        )
    assert "mine 0" in out.getvalue() and "mine 1" in out.getvalue()
    assert (out.getvalue() == "mine 0\nmine 1\n") == (kind is ProgressBar)


@pytest.mark.parametrize("kind", BARS)
def test_a_subclass_names_what_runs(kind: Any, shown, make_loader, make_trainer, terminal) -> None:
    class Mine(kind):  # type: ignore[misc] # one of three
        validation_description = "checking"

        @property
        def train_description(self) -> str:
            return f"lap {self.trainer.current_epoch}/{self.total_train_batches}"

    with redirect_stdout(terminal):
        bar = Mine()
        make_trainer(enable_progress_bar=True, callbacks=bar).fit(
            shown(), make_loader(6), make_loader(2)
        )

    assert "lap 0/6" in terminal.getvalue() and "checking" in terminal.getvalue()
    assert bar.total_val_batches == 2
    with pytest.raises(MisconfigurationException, match="before a run begins"):
        _ = Mine().trainer


def test_a_subclass_makes_the_bars_of_tqdm(shown, make_loader, make_trainer, terminal) -> None:
    """As Lightning's documentation does; a bar that is switched off stays away."""

    class Mine(TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()
            bar.set_description("running")
            return bar

        def init_validation_tqdm(self) -> Any:
            return self._tqdm(disable=True)

    with redirect_stdout(terminal):
        make_trainer(enable_progress_bar=True, callbacks=Mine()).fit(
            shown(), make_loader(6), make_loader(2)
        )

    out = terminal.getvalue()
    assert "running:   67%" in out and "4/6" in out and "0/?" not in out
    assert "Validation" not in out


def test_a_subclass_chooses_the_columns_of_rich(shown, make_loader, make_trainer, terminal) -> None:
    class Mine(RichProgressBar):
        def configure_columns(self, trainer: Any) -> list[Any]:
            return [*super().configure_columns(trainer)[:1], TextColumn(f"of {trainer.max_epochs}")]

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            assert trainer.sanity_checking or self.progress is not None
            super().on_validation_end(trainer, pl_module)

    with redirect_stdout(terminal):
        make_trainer(enable_progress_bar=True, callbacks=Mine()).fit(
            shown(), make_loader(6), make_loader(2)
        )

    assert "Epoch 1/1 of 1" in terminal.getvalue()


@pytest.mark.parametrize("kind", BARS)
def test_an_exception_leaves_a_clean_terminal(
    kind: Any, regression, make_loader, make_trainer, terminal
) -> None:
    class Broken(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise ZeroDivisionError
            return self.loss(batch)

    bar = kind()
    with pytest.raises(ZeroDivisionError), redirect_stdout(terminal):
        make_trainer(enable_progress_bar=True, callbacks=bar).fit(Broken(), make_loader(6))
    assert not bar._line_open
    assert getattr(bar, "_progress", None) is None and getattr(bar, "_bar", None) is None


def test_redraws_are_limited_by_time(shown, make_loader, make_trainer, monkeypatch) -> None:
    """However many batches there are, at most one redraw per interval."""
    drawn: list[int] = []
    bar = ProgressBar()
    monkeypatch.setattr(bar, "_show", lambda metrics: drawn.append(bar._done))
    clock = iter(range(10_000))
    monkeypatch.setattr(
        "scaffold_runtime.callbacks.progress.progress_bar.time.monotonic",
        lambda: next(clock) * REDRAW_SECONDS / 20,
    )
    with redirect_stdout(Terminal()):
        make_trainer(enable_progress_bar=True, callbacks=bar).fit(shown(), make_loader(60))

    assert 0 < len(drawn) <= 5
