"""The report of a run: one page that holds everything it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger, TensorBoardLogger

pytest.importorskip("plotly")

from scaffold_runtime.report import (
    RunFolder,
    RunReport,
    main,
    metrics_table,
    panel_of,
    thinned,
    write_report,
)

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)


class Line(LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.weight(batch).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.weight(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


def train(folder: Path, lr: float) -> Path:
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=CSVLogger(folder, name=""),
        callbacks=[RunReport(), ModelCheckpoint(monitor="val_loss")],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.DataLoader(torch.rand(8, 2), 4)
    trainer.fit(Line(lr), data, data)
    run = Path(trainer.log_dir)
    (run / "config.yaml").write_text(f"model:\n  lr: {lr}\n  name: <script>alert(1)</script>\n")
    return run


class Page(HTMLParser):
    """Texts of a page, and what it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder, lr) for lr in (0.1, 0.01)]


def test_training_ends_with_a_report(runs):
    facts = json.loads((runs[0] / "run.json").read_text())
    assert {"training", "validation"} <= facts["seconds"].keys()
    assert facts["best"].endswith(".ckpt")
    assert facts["environment"]["torch"] == torch.__version__
    page = Page((runs[0] / "report.html").read_text())
    shown = " ".join(page.texts)
    assert not page.loaded  # nothing from elsewhere
    for word in ("train_loss", "val_loss", "Checkpoints", facts["best"], "Environment"):
        assert word in shown


def test_evaluation_by_itself_writes_none(tmp_path):
    data = torch.ones(4, 2)
    options = {"max_epochs": 1, "accelerator": "cpu"}
    trainer = Trainer(logger=CSVLogger(tmp_path), callbacks=RunReport(), **options)
    trainer.validate(Line(), data, verbose=False)
    assert not list(tmp_path.rglob("report.html"))


def test_pictures_and_samples_are_inside_and_nothing_is_run(runs):
    (runs[0] / "pictures").mkdir(exist_ok=True)
    (runs[0] / "pictures" / "seen.png").write_bytes(PIXEL)
    (runs[0] / "samples.txt").write_text("<b>def f():")
    before = Page(write_report([runs[0]], runs[0] / "report.html").read_text())
    assert before.tags.count("img") == 1
    assert "alert(1)" in " ".join(before.texts)  # shown as text
    assert "b" not in before.tags


def test_runs_are_compared(runs, tmp_path, capsys):
    where = tmp_path / "both.html"
    main([*map(str, runs), "--output", str(where)])
    main([str(run) for run in runs])
    beside = runs[0].parent / "report.html"
    assert capsys.readouterr().out.split() == [str(where), str(beside)]
    assert beside.exists()
    shown = " ".join(Page(where.read_text()).texts)
    assert "What differs" in shown
    assert "model.lr" in shown
    assert "version_0 val_loss" in shown


def test_train_and_validation_share_a_panel():
    assert panel_of("train_loss") == panel_of("val_loss") == panel_of("val_loss_epoch") == "loss"
    assert panel_of("lr-SGD") == "lr-SGD"


def test_no_run_is_one_clear_error(tmp_path, capsys):
    with pytest.raises(MisconfigurationException, match="not the folder of a run"):
        RunFolder(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "lr: [1\n"), ("run.json", '{"best":')])
def test_a_damaged_file_is_left_out(name, text, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    with pytest.warns(UserWarning, match=f"{re.escape(name)} is left out, as it cannot be read: "):
        main([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"


def test_the_page_may_go_into_a_new_folder(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1\n")
    main([str(tmp_path), "--output", str(tmp_path / "a" / "b" / "page.html")])
    assert (tmp_path / "a" / "b" / "page.html").exists()


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_run_that_logs_nothing_still_has_a_page(kind, regression, make_loader, make_trainer):
    class Quiet(regression):
        def training_step(self, batch, batch_idx):
            return self.loss(batch)

    trainer = make_trainer(logger=kind("logs"), callbacks=RunReport())
    trainer.fit(Quiet(), make_loader(2))
    assert "switch on the CSV logger" in Path(trainer.log_dir, "report.html").read_text()


def test_a_page_that_cannot_be_made_does_not_fail_the_training(
    regression, make_loader, make_trainer
):
    trainer = make_trainer(logger=CSVLogger("logs", version="mine"), callbacks=RunReport())
    Path("logs/lightning_logs/mine/report.html").mkdir(parents=True)
    with pytest.warns(UserWarning, match="RunReport: IsADirectoryError: "):
        trainer.fit(regression(), make_loader(2))
    assert trainer.state.finished


def test_what_is_no_number_is_left_out(tmp_path):
    cells = "0,1,nan,2\n0,2,tensor(1),\n0,3,5,x\n0,4,0.5,"
    (tmp_path / "metrics.csv").write_text(f"epoch,step,loss,acc\n{cells}")
    curves = RunFolder(tmp_path).curves
    assert np.array_equal(curves["loss"], ([1, 3], [np.nan, 5]), equal_nan=True)
    assert np.array_equal(curves["acc"], ([1], [2]))
    assert "<td>loss</td><td>5</td><td>5</td><td>5</td>" in metrics_table([RunFolder(tmp_path)])


def test_gaps_and_what_is_not_finite_are_drawn_around(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss,val_loss\n0,1,nan,\n0,2,inf,1\n")
    steps, values = RunFolder(tmp_path).curves["val_loss"]
    assert (steps.tolist(), values.tolist()) == ([2.0], [1.0])
    assert write_report([tmp_path], tmp_path / "report.html").exists()


def test_a_row_cut_short_is_left_out_and_a_logged_nan_is_a_point(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,acc\n0,1,nan,\n0,2,2.0,0.5\n0,3,1")
    curves = RunFolder(tmp_path).curves
    assert np.array_equal(curves["loss"], ([1, 2], [np.nan, 2]), equal_nan=True)
    assert np.array_equal(curves["acc"], ([2], [0.5]))


def test_a_line_of_very_many_points_keeps_its_extremes_and_says_so(tmp_path):
    values = np.sin(np.arange(1_000_001) / 1e5)
    values[[123_456, 654_321, 1_000_000]] = 7, -7, np.nan
    steps, drawn, every = thinned(np.arange(1_000_001.0), values)
    assert every == 1001
    assert len(drawn) <= 2000
    assert (np.diff(steps) > 0).all()
    assert (drawn == values[steps.astype(int)]).all()
    assert drawn[steps == 123_456] == 7
    assert drawn[steps == 654_321] == -7
    lines = [f"0,{step},{value}\n" for step, value in enumerate(values[:50_000])]
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss\n" + "".join(lines))
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "lowest and highest of every 50)" in page


def test_few_points_are_all_drawn():
    steps, drawn, every = thinned(np.arange(2000.0), np.ones(2000))
    assert (every, len(steps), len(drawn)) == (1, 2000, 2000)


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    folders = [tmp_path / name / "version_0" for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(runs[0], folder)
    shown = " ".join(Page(write_report(folders, tmp_path / "both.html").read_text()).texts)
    assert f"{folders[1]} val_loss" in shown


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def opened(page: Path, folder: Path) -> str:
    """The page as headless Chromium has it after running its scripts, none of which may fail."""
    flags = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --dump-dom"
    done = subprocess.run(
        [browser(), *flags.split(), f"--user-data-dir={folder}/browser", page.as_uri()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert ":CONSOLE" not in done.stderr, done.stderr  # errors, and whatever else a page says
    return done.stdout


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
def test_a_browser_draws_it(runs, tmp_path):
    """Each curve of one run and of two; a script that fails is noticed."""
    drawn = opened(runs[0] / "report.html", tmp_path)
    assert drawn.count('class="trace scatter') == 2  # train_loss and val_loss
    both = write_report(runs, tmp_path / "both.html")
    assert opened(both, tmp_path).count('class="trace scatter') == 4
    broken = tmp_path / "broken.html"
    broken.write_text(both.read_text().replace("Plotly.newPlot(", "Plotly.oldPlot("))
    with pytest.raises(AssertionError, match="oldPlot"):
        opened(broken, tmp_path)
