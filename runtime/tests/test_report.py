"""The report of a run: one page that holds everything it shows."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger

pytest.importorskip("plotly")

from scaffold_runtime.report import RunFolder, RunReport, main, panel_of, write_report

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
    assert main([*map(str, runs), "--output", str(where)]) == 0
    assert capsys.readouterr().out.strip() == str(where)
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
    assert main([str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_gaps_and_what_is_not_finite_are_drawn_around(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss,val_loss\n0,1,nan,\n0,2,inf,1\n")
    assert RunFolder(tmp_path).curves["val_loss"] == ([2.0], [1.0])
    assert write_report([tmp_path], tmp_path / "report.html").exists()


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(browser() is None, reason="no Chromium is installed")
def test_a_browser_draws_it(runs, tmp_path):
    """Scripts run without an error, and curves are there."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [browser(), *flags, "--dump-dom", (runs[0] / "report.html").as_uri()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "scatterlayer" in done.stdout
    assert "Uncaught" not in done.stderr
