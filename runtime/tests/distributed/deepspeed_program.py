"""Run by test_deepspeed.py: trains as a list of cases says, in two processes, and writes down what came of it.

A script of its own, because that is how DeepSpeed is used: the strategy runs it again for the second process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import Callback, LightningModule, Trainer, seed_everything
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.callbacks.model_summary import summarize
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.strategies import DeepSpeedStrategy


class Small(LightningModule):
    """Two layers, one of them frozen, and a buffer; keeps the loss of every step, and how much was moved at once."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.losses: list[Tensor] = []
        self.moved = 0
        self.build()

    def build(self) -> None:
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.fixed = nn.Linear(4, 4, bias=False).requires_grad_(False)

    def _apply(self, *given: Any) -> Any:
        self.moved = max(self.moved, sum(parameter.numel() for parameter in self.parameters()))
        return super()._apply(*given)

    example_input_array = torch.zeros(2, 4)

    def forward(self, x: Tensor) -> Any:
        return self.net(self.fixed(x))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.steps += 1
        self.losses.append(loss.detach().float())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Late(Small):
    """The same, with layers that are made where a run begins; keeps how they are when optimizers are made."""

    def build(self) -> None:
        pass

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            super().build()

    def configure_optimizers(self) -> Any:
        self.made = [[str(p.dtype), p.numel()] for p in self.parameters()]
        return super().configure_optimizers()


class Meta(Late):
    """The same without memory, until they are divided."""

    def configure_model(self) -> None:
        with torch.device("meta"):
            super().configure_model()


class Manual(Small):
    """The same, stepped by hand."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class Backward(Small):
    """Differentiates itself, and has an optimizer to which the size of gradients matters."""

    def backward(self, loss: Tensor, *given: Any, **named: Any) -> None:
        loss.backward(*given, **named)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)


class Scales(Callback):
    """Keeps the steps that were counted, DeepSpeed's loss scale, and the steps that it skipped."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, int]] = []

    def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
        engine = trainer.strategy._engine
        scale = float(engine.optimizer.loss_scale)
        self.seen.append((trainer.global_step, scale, engine.skipped_steps))


def data(size: int = 4, **options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 4, generator=generator)
    dataset = TensorDataset(x, x.sum(1, keepdim=True).tanh())
    return DataLoader(dataset, **(options or {"batch_size": size}))


def trainer(**arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "callbacks": []}
    made = {**quiet, **defaults, **arguments}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in made["callbacks"])
    return Trainer(**made, enable_checkpointing=saves)


def pretend_that_fp16_is_supported() -> None:
    """DeepSpeed refuses fp16 on a CPU, which is slow at it, and can do it."""
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    CPU_Accelerator.is_fp16_supported = lambda self: True


def run(case: dict[str, Any], folder: Path) -> None:
    seed_everything(0, verbose=False)
    module, name = KINDS[case.get("kind", "Small")](), case["name"]
    keep = ModelCheckpoint(
        folder / name, "{epoch}", save_top_k=-1, save_last=True, async_save=name == "async"
    )
    strategy = DeepSpeedStrategy(**case["strategy"]) if "strategy" in case else case["named"]
    scales = Scales()
    callbacks: list[Callback] = [keep] * case.get("saves", 0)
    if case["trainer"].get("precision", "").startswith("16"):
        pretend_that_fp16_is_supported()
        callbacks.append(scales)
    made = trainer(**{"devices": 2, **case["trainer"]}, strategy=strategy, callbacks=callbacks)
    made.fit(
        module, data(), data(), ckpt_path=case.get("resume"), restore=case.get("restore", "all")
    )
    for weights_only in case.get("rewrites", ()):
        made.save_checkpoint(folder / f"{name}.ckpt", weights_only)
    values = {key: float(value) for key, value in made.callback_metrics.items()}
    validated = made.validate(module, data(), ckpt_path=case.get("validate"), verbose=False)
    predicted = made.predict(module, data())
    losses = made.strategy.gather(torch.stack(module.losses).tolist())
    if made.is_global_zero:
        assert predicted is not None
        written = {"losses": losses, "values": values, "validated": validated[0]["val_loss"]}
        written |= {"scales": scales.seen, "moved": module.moved}
        if isinstance(module, Late):
            written["made"] = module.made
        torch.save([part.float() for part in predicted], folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(written))


def take(case: dict[str, Any], folder: Path) -> None:
    """Weights of a plain file, into modules that were divided or are to be; one run after another."""

    def fresh(**others: Any) -> Trainer:
        # Small weights, too, are divided between steps.
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        strategy = DeepSpeedStrategy(config={"zero_optimization": zero})
        return trainer(devices=2, strategy=strategy, **{**case["trainer"], **others})

    written: dict[str, Any] = {"validated": [], "parameters": []}
    for kind in (Meta, Small, Late):
        module, made = kind(), fresh()
        for each in (made, made, fresh()):
            found = each.validate(module, data(), ckpt_path=case["take"], verbose=False)
            written["validated"].append(found[0]["val_loss"])
        made.fit(module, data(), data(), ckpt_path=case["take"], restore="weights")
        fresh().fit(module, data(), data(), ckpt_path=case["take"], restore="weights")
        written[kind.__name__] = made.strategy.gather(torch.stack(module.losses).tolist())
        for each in (made, fresh()):
            found = each.validate(module, data(), verbose=False)
            written[f"{kind.__name__} trained"] = found[0]["val_loss"]
        written["parameters"].append(summarize(module).total_parameters)
    written["refused"] = []
    for other in (fresh(precision="bf16-mixed"), trainer(), trainer(devices=2, strategy="ddp")):
        try:
            other.validate(module, data())
        except MisconfigurationException as error:
            written["refused"].append(str(error))
    with torch.device("meta"):
        written["meta"] = torch.empty(1).is_meta
    if made.is_global_zero:
        (folder / f"{case['name']}.json").write_text(json.dumps(written))


KINDS = {"Small": Small, "Late": Late, "Meta": Meta, "Manual": Manual, "Backward": Backward}

if __name__ == "__main__":
    place = Path(sys.argv[1])
    for given in json.loads((place / sys.argv[2]).read_text()):
        (take if "take" in given else run)(given, place)
