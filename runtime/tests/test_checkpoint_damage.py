"""Damaged and malicious files are named before anything in them is used, and run no code."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime import Callback, LightningModule
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.__main__ import main
from scaffold_runtime.checkpoint.io import read_checkpoint, warn_of_hole, write_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.errors import CheckpointError

GOOD = {"state_dict": {"w": torch.arange(500.0)}, "global_step": 3, "epoch": 0}
FORBIDDEN = ("exec", "compile", "import", "os.system", "subprocess.", "socket.", "shutil.", "os.remove")  # fmt: skip
SEEN: list[str] = []
WATCHING = False


def audit(event: str, arguments: Any) -> None:
    if WATCHING and event.startswith(FORBIDDEN):
        SEEN.append(f"{event} {arguments!r:.80}")


sys.addaudithook(audit)


@contextmanager
def nothing_runs() -> Iterator[None]:
    global WATCHING
    SEEN.clear()
    WATCHING = True
    try:
        yield
    finally:
        WATCHING = False
    assert not SEEN


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_checkpoint(GOOD, tmp_path / "good.ckpt")
    with pytest.raises(CheckpointError):  # what reading an error imports is imported
        read_checkpoint(tmp_path / "none.ckpt")
    read_checkpoint(tmp_path / "good.ckpt")
    b"x".decode("cp437")  # the codec of zip files' names
    return tmp_path / "good.ckpt"


def refused(path: Path) -> str:
    with nothing_runs(), pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- damage ---------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_content_is_found(good: Path) -> None:
    data, choose = good.read_bytes(), random.Random(0)
    begin = data.index(GOOD["state_dict"]["w"].numpy().tobytes()[400:800]) - 400
    for _ in range(200):
        place, bit = begin + choose.randrange(2000), 1 << choose.randrange(8)
        good.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        assert "checksum" in refused(good)


def test_flips_anywhere_are_found_or_change_nothing(good: Path) -> None:
    data, choose, found = good.read_bytes(), random.Random(1), 0
    for _ in range(300):
        place = choose.randrange(len(data))
        good.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            with nothing_runs():
                read = read_checkpoint(good)
        except CheckpointError:
            found += 1
        else:
            assert torch.equal(read["state_dict"]["w"], GOOD["state_dict"]["w"])
    assert found > 200


def test_every_truncation_is_found(good: Path) -> None:
    data = good.read_bytes()
    for length in range(0, len(data), 37):
        good.write_bytes(data[:length])
        refused(good)


@pytest.mark.parametrize("start", [0, 0.3, 0.9])
def test_zeroed_blocks_are_found(good: Path, start: float) -> None:
    data = bytearray(good.read_bytes())
    place = int(start * len(data))
    data[place : place + 512] = bytes(len(data[place : place + 512]))
    good.write_bytes(data)
    refused(good)


def test_swapped_parts_are_found(good: Path) -> None:
    data = good.read_bytes()
    weights = GOOD["state_dict"]["w"].numpy().tobytes()
    place = data.index(weights)
    half = len(weights) // 2
    good.write_bytes(data[:place] + weights[half:] + weights[:half] + data[place + len(weights) :])
    assert "checksum" in refused(good)


def test_wrong_kinds_of_file(tmp_path: Path) -> None:
    kinds: dict[str, Callable[[Path], Any]] = {
        "empty": lambda p: p.write_bytes(b""),
        "text": lambda p: p.write_text("not a checkpoint"),
        "tensor": lambda p: torch.save(torch.ones(2), p),
        "legacy": lambda p: torch.save(GOOD, p, _use_new_zipfile_serialization=False),
        "pickle": lambda p: p.write_bytes(pickle.dumps({"a": 1})),
        "zip": lambda p: zipfile.ZipFile(p, "w").close(),
        "folder": lambda p: p.mkdir(),
        "pipe": lambda p: os.mkfifo(p),
        "dangling": lambda p: p.symlink_to("nowhere"),
    }
    for name, write in kinds.items():
        path = tmp_path / f"{name}.ckpt"
        write(path)
        refused(path)


# -- malice ---------------------------------------------------------------------------------------


def reduce_call(name: str, *arguments: Any) -> bytes:
    """A pickle, written by hand, that calls `module.name(*arguments)` when it is read."""
    module, _, attribute = name.rpartition(".")
    inner = b"".join(pickle.dumps(a, 2)[2:-1] for a in arguments)
    call = b"c" + f"{module}\n{attribute}\n".encode() + b"(" + inner + b"tR"
    return b"\x80\x02}X\n\x00\x00\x00state_dict" + call + b"s."


CALLS: list[tuple[Any, ...]] = [
    ("os.system", "touch canary"), ("posix.system", "touch canary"), ("os.popen", "touch canary"),
    ("subprocess.Popen", ["touch", "canary"]), ("subprocess.call", ["touch", "canary"]),
    ("subprocess.check_output", ["touch", "canary"]), ("builtins.eval", "open('canary', 'w')"),
    ("builtins.exec", "open('canary', 'w')"), ("builtins.open", "canary", "w"), ("io.open", "canary", "w"),
    ("builtins.__import__", "antigravity"), ("importlib.import_module", "this"), ("builtins.compile", "1", "x", "eval"),
    ("builtins.getattr", "a", "upper"), ("operator.attrgetter", "x"), ("operator.methodcaller", "x"),
    ("functools.partial", "x"), ("shutil.rmtree", "x"), ("shutil.copy", "a", "canary"), ("os.remove", "good.ckpt"),
    ("os.mkdir", "canary"), ("os.execv", "/bin/true", ["true"]), ("os.fork",), ("os._exit", 3), ("sys.exit", 3),
    ("socket.create_connection", ["localhost", 1]), ("urllib.request.urlopen", "http://localhost:1"),
    ("pickle.loads", b"cos\nsystem\n(S'touch canary'\ntR."), ("_pickle.loads", b"cos\nsystem\n(S'touch canary'\ntR."),
    ("torch.load", "evil.ckpt"), ("torch.serialization.load", "evil.ckpt"), ("torch.jit.load", "evil.ckpt"),
    ("torch.hub.load", "a/b", "c"), ("torch.storage._load_from_bytes", b"cos\nsystem\n(S'touch canary'\ntR."),
    ("torch._dynamo.guards.GuardBuilder.get", "x"), ("numpy.load", "evil.npy"),
    ("numpy.core.multiarray._reconstruct", 1),
    ("logging.FileHandler", "canary"), ("pathlib.Path.touch", "canary"), ("tempfile.mktemp",), ("webbrowser.open", "x"),
    ("runpy.run_path", "canary.py"), ("code.interact",), ("pdb.run", "1"), ("timeit.timeit", "open('canary', 'w')"),
    ("pip.main", ["install"]), ("ctypes.CDLL", "libc.so.6"), ("multiprocessing.Process",), ("marshal.loads", b"x"),
    ("types.FunctionType", 1), ("asyncio.run", 1), ("lightning.pytorch.callbacks.Callback",),
    ("my_project.model.Model",),
    ("scaffold_runtime.Trainer",), ("scaffold_runtime.checkpoint.io.write_atomically", "canary"),
    ("collections.UserDict",),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_payloads_run_nothing(good: Path, tmp_path: Path, call: tuple[Any, ...]) -> None:
    evil = tmp_path / "evil.ckpt"
    rewrite(good, evil, {"data.pkl": reduce_call(*call)})
    refused(evil)
    for command in ("show", "verify"):
        with pytest.raises(SystemExit, match="1"):
            main([command, str(evil)])
    with pytest.raises(CheckpointError):
        LightningModule.load_from_checkpoint(evil)
    evil.write_bytes(reduce_call(*call))  # not even a zip file
    refused(evil)
    assert not (tmp_path / "canary").exists() and not Path("canary").exists()


def rewrite(source: Path, target: Path, changes: dict[str, bytes], **options: Any) -> None:
    """The same zip file with other contents for some parts, all checksums right."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for part in old.infolist():
            short = part.filename.split("/", 1)[1]
            new.writestr(part.filename, changes.get(short, old.read(part)))


def test_import_paths_in_hyperparameters_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(
        {**GOOD, "hyper_parameters": {"_instantiator": "os.system", "x": "os.system"}}, path
    )
    with nothing_runs():
        read = read_checkpoint(path)
    assert read["hyper_parameters"] == {"_instantiator": "os.system", "x": "os.system"}


def test_tricks_with_the_zip_format(good: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.ckpt"
    rewrite(good, evil, {}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(evil)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    evil.write_bytes(bomb.getvalue())
    assert "compressed" in refused(evil)
    for name in ("../outside", "/etc/outside", "a/../../outside", "a\\..\\outside"):
        rewrite(good, evil, {})
        with zipfile.ZipFile(evil, "a") as archive:
            archive.writestr(name, b"x")
        refused(evil)
    rewrite(good, evil, {})
    with warnings.catch_warnings(), zipfile.ZipFile(evil, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], reduce_call("os.system", "touch canary"))
    assert "same name" in refused(evil)
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/code/__torch__.py", "import os")
        archive.writestr("a/constants.pkl", pickle.dumps(()))
    assert "TorchScript" in refused(evil)
    size = struct.pack("<I", 2**31)
    evil.write_bytes(good.read_bytes()[:-30] + size + good.read_bytes()[-26:])
    refused(evil)


@pytest.mark.parametrize(("version", "warned"), [("2.9.1+cpu", 1), ("2.10.0", 0), ("2.13.0", 0)])
def test_a_torch_whose_safe_loading_has_a_hole_is_named_once(
    good: Path, monkeypatch: pytest.MonkeyPatch, version: str, warned: int
) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    warn_of_hole.cache_clear()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            read_checkpoint(good)

    assert len(seen) == warned
    assert all("CVE-2026-24747" in str(w.message) and version in str(w.message) for w in seen)
    assert all("only files you trust, or upgrade" in str(w.message) for w in seen)
    assert all(Path(w.filename) == Path(__file__) for w in seen)


# -- falling back ---------------------------------------------------------------------------------


def test_last_falls_back_with_one_warning_and_a_path_never_does(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    def trainer(epochs: int = 2) -> Any:
        save = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=2)
        return make_trainer(callbacks=[save], enable_checkpointing=True, max_epochs=epochs)

    trainer(1).fit(regression(), make_loader(6))
    for step in (4, 6):
        file = tmp_path / f"step={step}.ckpt"
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.warns(
        UserWarning, match=r"step=6\.ckpt.*step=4\.ckpt.*Resuming from .*step=2\.ckpt"
    ) as seen:
        trainer().fit(regression(), make_loader(6), ckpt_path="last")
    assert len(seen) == 1
    assert read_checkpoint(tmp_path / "step=12.ckpt")["global_step"] == 12
    file = tmp_path / "step=12.ckpt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="step=12"):
        trainer().fit(regression(), make_loader(6), ckpt_path=file)
    for file in tmp_path.glob("*.ckpt"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read"):
        trainer().fit(regression(), make_loader(6), ckpt_path="last")


# -- Lightning's files, looking into files, and taking parts of them ------------------------------


def as_lightning_writes(path: Path, model: Any) -> None:
    """A checkpoint with the keys and the hyperparameter class of Lightning 2.x, built by hand."""
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    fake = type("AttributeDict", (dict,), {"__module__": "lightning.fabric.utilities.data"})
    module = type(sys)("lightning.fabric.utilities.data")
    module.AttributeDict = fake
    names = ("lightning", "lightning.fabric", "lightning.fabric.utilities")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, type(sys)(name))
        patch.setitem(sys.modules, "lightning.fabric.utilities.data", module)
        torch.save(
            {
                "epoch": 1, "global_step": 12, "pytorch-lightning_version": "2.5.1",
                "state_dict": model.state_dict(), "loops": {"fit_loop": {"state_dict": {}}},
                "callbacks": {}, "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [],
                "hparams_name": "kwargs", "hyper_parameters": fake(lr=0.25, width=6),
            },
            path,
        )  # fmt: skip


def test_lightning_files_load_without_lightning(
    tmp_path: Path, regression: Any, make_trainer: Any, make_loader: Any
) -> None:
    path, original = tmp_path / "lightning.ckpt", regression(width=6)
    as_lightning_writes(path, original)
    before = set(sys.modules)
    made = regression.load_from_checkpoint(path)
    assert made.lr == 0.25
    assert torch.equal(made.net[0].weight, original.net[0].weight)
    assert not any(name.startswith("lightning") for name in set(sys.modules) - before)
    made.configure_optimizers = lambda: torch.optim.SGD(made.parameters(), 0.1, momentum=0.9)
    trainer = make_trainer(max_epochs=3)
    trainer.fit(made, make_loader(6), ckpt_path=path)
    assert (trainer.current_epoch, trainer.global_step) == (3, 18)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.3


WRITTEN_BY_LIGHTNING = """
import sys, torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Model(LightningModule):
    def __init__(self, lr=0.1, width=8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))
    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

seed_everything(0)
data = DataLoader(TensorDataset(torch.randn(24, 4), torch.randn(24, 1)), 4)
trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                  callbacks=[EarlyStopping("loss"), ModelCheckpoint(sys.argv[1], "lightning")])
model = Model(lr=0.25, width=6)
trainer.fit(model, data)
torch.save([model.state_dict(), trainer.optimizers[0].state_dict()], sys.argv[1] + "/expected.pt")
"""
BENCH = Path(__file__).parents[2] / ".bench-venv" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the checkpoint holds the state of callbacks")
def test_a_file_lightning_wrote(
    tmp_path: Path, regression: Any, make_trainer: Any, make_loader: Any
) -> None:
    """`make bench` makes the environment with Lightning that writes it."""
    python = Path(os.environ.get("SCAFFOLD_BENCH_PYTHON", BENCH))
    if not python.exists():
        pytest.skip(f"there is no Lightning to write the file: `make bench` makes {BENCH}")
    script = tmp_path / "write.py"
    script.write_text(WRITTEN_BY_LIGHTNING)
    command = [str(python), str(script), str(tmp_path)]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, check=True, capture_output=True, timeout=200, env=clean)
    path = tmp_path / "lightning.ckpt"
    weights, optimizer = torch.load(tmp_path / "expected.pt", weights_only=True)

    made = regression.load_from_checkpoint(path)
    assert (made.lr, made.net[0].out_features) == (0.25, 6)
    for name, weight in weights.items():
        assert torch.equal(made.state_dict()[name], weight)

    def configure_optimizers() -> Any:
        adam = torch.optim.Adam(made.parameters(), lr=1.0)
        return [adam], [torch.optim.lr_scheduler.StepLR(adam, 1, 0.5)]

    made.configure_optimizers = configure_optimizers
    seen: list[Any] = []

    class Look(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append((trainer.current_epoch, trainer.global_step))
            seen.append(copy.deepcopy(trainer.optimizers[0].state_dict()))

    make_trainer(max_epochs=3, callbacks=Look()).fit(made, make_loader(6), ckpt_path=path)
    assert seen[0] == (2, 12)
    assert difference(seen[1]["state"], optimizer["state"]) is None
    assert seen[1]["param_groups"][0]["lr"] == 0.25 * 0.5**2


def test_show_verify_and_diff(good: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other.ckpt"
    changed = torch.arange(500.0)
    changed[7] += 1
    write_checkpoint({**GOOD, "state_dict": {"w": changed}}, other)
    assert main(["show", str(good)]) == 0
    assert "w: float32 (500,)" in capsys.readouterr().out
    assert main(["verify", str(good)]) == 0
    assert main(["diff", str(good), str(good)]) == 0
    assert main(["diff", str(good), str(other)]) == 1
    said = capsys.readouterr().out
    assert "`state_dict.w`" in said
    assert "The same in both: global_step, epoch." in said
    other.write_bytes(b"x")
    with pytest.raises(SystemExit, match="1"):
        main(["verify", str(other)])
    assert "other.ckpt" in capsys.readouterr().err
