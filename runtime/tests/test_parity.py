"""A loop a person would write, and the engine: the same weights and losses, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from scaffold_runtime import LightningModule


def plain_loop(
    model: Any,
    batches: Any,
    optimizer: Any,
    epochs: int = 2,
    *,
    window: int = 1,
    forward: Any = None,
    scaler: Any = None,
    clip: Callable[[Any], object] = lambda parameters: None,
    after_step: Callable[[], object] = lambda: None,
    after_epoch: Callable[[float], object] = lambda mean: None,
) -> list[float]:
    """Train `model` on `batches`; returns the loss of each batch."""
    losses: list[float] = []
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(epochs):
        count = len(batches)
        for index, batch in enumerate(batches):
            with forward or nullcontext():
                loss = model.loss(batch)
            if index % window == 0:
                optimizer.zero_grad()
            size = min(window, count - index // window * window)  # the last window may be short
            scaler.scale(loss / size).backward()
            if index % window == window - 1 or index == count - 1:
                scaler.unscale_(optimizer)
                clip(model.parameters())
                scaler.step(optimizer)
                scaler.update()
                after_step()
            losses.append(loss.item())
        after_epoch(torch.tensor(losses[-count:]).mean().item())
    return losses


def same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert any(p.abs().sum() > 0 for p in one.parameters())


def compare(
    module: Any,
    loader: Any,
    make_trainer: Any,
    recorder: Any,
    plain: dict[str, Any],
    **arguments: Any,
) -> None:
    """Train a copy with `plain_loop` and `module` with the engine, from the same random state."""
    twin = deepcopy(module)
    double = arguments.get("precision") == "64-true"
    if double:
        twin = twin.double()
    state = torch.get_rng_state()
    optimizer = twin.configure_optimizers()
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer["optimizer"]
    made = plain.pop("make", lambda optimizer: {})(optimizer)
    batches = plain.pop("batches", loader)
    expected = plain_loop(twin, batches, optimizer, **plain, **made)
    torch.set_rng_state(state)
    trainer = make_trainer(logger=recorder, max_epochs=2, **arguments)
    before = deepcopy(module)
    trainer.fit(module, loader)
    same_weights(twin, module)
    assert any(
        not torch.equal(a, b) for a, b in zip(before.parameters(), module.parameters(), strict=True)
    )
    window, count = plain.get("window", 1), len(loader)
    closing = [i for i in range(count) if i % window == window - 1 or i == count - 1]
    logged = [expected[epoch * count + i] for epoch in range(2) for i in closing]
    assert recorder.values("loss") == logged


def test_plain(regression: Any, make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    compare(regression(), make_loader(), make_trainer, recorder, {})


def test_shuffled(regression: Any, make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    compare(regression(), make_loader(shuffle=True), make_trainer, recorder, {})


def test_dropout_draws_the_same_random_numbers(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    module = regression()
    module.net.insert(2, nn.Dropout(0.5))
    compare(module, make_loader(shuffle=True), make_trainer, recorder, {})


@pytest.mark.parametrize("batches", [8, 6, 3])
def test_accumulation_with_a_short_last_window(
    batches: int, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    loader = make_loader(batches)
    compare(regression(), loader, make_trainer, recorder, {"window": 4}, accumulate_grad_batches=4)
    assert recorder.steps("loss") == list(range(2 * -(-batches // 4)))


@pytest.mark.parametrize(
    ("algorithm", "clip"),
    [
        ("norm", lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1)),
        ("value", lambda parameters: nn.utils.clip_grad_value_(parameters, 0.1)),
    ],
)
def test_clipping(
    algorithm: str, clip: Any, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    compare(
        regression(),
        make_loader(),
        make_trainer,
        recorder,
        {"clip": clip},
        gradient_clip_val=0.1,
        gradient_clip_algorithm=algorithm,
    )


def test_bf16_mixed(regression: Any, make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    forward = torch.autocast("cpu", dtype=torch.bfloat16)
    compare(
        regression(),
        make_loader(),
        make_trainer,
        recorder,
        {"forward": forward},
        precision="bf16-mixed",
    )


@pytest.mark.parametrize("window", [1, 4])
def test_16_mixed_scales_unscales_then_clips(
    window: int, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    plain = {
        "forward": torch.autocast("cpu", dtype=torch.float16),
        "scaler": torch.amp.GradScaler("cpu"),
        "clip": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1),
        "window": window,
    }
    compare(
        regression(),
        make_loader(),
        make_trainer,
        recorder,
        plain,
        precision="16-mixed",
        gradient_clip_val=0.1,
        accumulate_grad_batches=window,
    )


def test_64_true(regression: Any, make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    loader = make_loader()
    batches = [(x.double(), y.double()) for x, y in loader]
    module = regression()
    compare(module, loader, make_trainer, recorder, {"batches": batches}, precision="64-true")
    assert module.dtype is torch.float64


def test_step_lr_per_epoch(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Scheduled(regression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, 0.3)}

    def make(optimizer: Any) -> dict[str, Any]:
        scheduler = StepLR(optimizer, 1, 0.3)
        return {"after_epoch": lambda mean: scheduler.step()}

    compare(Scheduled(), make_loader(), make_trainer, recorder, {"make": make})


@pytest.mark.parametrize("window", [1, 4])
def test_one_cycle_per_step(
    window: int, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Scheduled(regression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            if self._trainer is None:
                return optimizer
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def make(optimizer: Any) -> dict[str, Any]:
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=2 * -(-6 // window))
        return {"after_step": scheduler.step}

    compare(
        Scheduled(),
        make_loader(),
        make_trainer,
        recorder,
        {"make": make, "window": window},
        accumulate_grad_batches=window,
    )


def test_plateau_on_the_epoch_mean(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Scheduled(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=False)
            self.log("mean_loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            # A threshold no epoch can beat, so the rate falls after the second.
            scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "mean_loss"}

    scheduled: list[Any] = []

    def make(optimizer: Any) -> dict[str, Any]:
        scheduled.append(optimizer)
        scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {"after_epoch": scheduler.step}

    module = Scheduled()
    trainer = None

    def keep(**arguments: Any) -> Any:
        nonlocal trainer
        trainer = make_trainer(**arguments)
        return trainer

    compare(module, make_loader(), keep, recorder, {"make": make})
    assert trainer is not None
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == scheduled[0].param_groups[0]["lr"] < module.lr


class Gan(LightningModule):
    """Two networks against each other, each with its optimizer, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.make, self.judge = nn.Linear(2, 4), nn.Linear(4, 1)

    def losses(self, real: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        noise = torch.randn(real.shape[0], 2)
        entropy = nn.functional.binary_cross_entropy_with_logits

        def fool() -> Tensor:
            verdict = self.judge(self.make(noise))
            return entropy(verdict, torch.ones_like(verdict))

        def tell() -> Tensor:
            true, false = self.judge(real), self.judge(self.make(noise).detach())
            return entropy(true, torch.ones_like(true)) + entropy(false, torch.zeros_like(false))

        return fool, tell

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for name, loss_of, optimizer in zip(
            ("fool", "tell"), self.losses(batch[0]), self.optimizers(), strict=True
        ):
            self.toggle_optimizer(optimizer)
            loss = loss_of()
            self.log(name, loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        parts = (self.make, self.judge)
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in parts], []


def test_gan(make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    module, loader = Gan(), make_loader(shuffle=True)
    twin, state = deepcopy(module), torch.get_rng_state()
    optimizers, _ = twin.configure_optimizers()
    expected: list[float] = []
    for _ in range(2):
        for batch in loader:
            for loss_of, optimizer in zip(twin.losses(batch[0]), optimizers, strict=True):
                loss = loss_of()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                expected.append(loss.item())
    torch.set_rng_state(state)
    trainer = make_trainer(logger=recorder, max_epochs=2)
    trainer.fit(module, loader)
    same_weights(twin, module)
    pairs = zip(recorder.values("fool"), recorder.values("tell"), strict=True)
    assert [value for pair in pairs for value in pair] == expected
    assert trainer.global_step == 12  # batches in which an optimizer stepped
    assert all(parameter.requires_grad for parameter in module.parameters())


def penalised(model: Any, batch: Any) -> Tensor:
    x = batch[0].requires_grad_()
    score = model(x).sum()
    (slope,) = torch.autograd.grad(score, x, create_graph=True)
    return model.loss(batch) + ((slope.norm(2, dim=1) - 1) ** 2).mean()


@pytest.mark.parametrize("manual", [False, True])
def test_gradient_penalty(
    manual: bool, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Penalised(regression):
        automatic_optimization = not manual

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = penalised(self, batch)
            self.log("loss", loss)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

    module, loader = Penalised(), make_loader()
    twin = deepcopy(module)
    optimizer = twin.configure_optimizers()
    expected = []
    for batch in loader:
        loss = penalised(twin, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    make_trainer(logger=recorder).fit(module, loader)
    same_weights(twin, module)
    assert recorder.values("loss") == expected


def test_lbfgs(regression: Any, make_loader: Any, make_trainer: Any, recorder: Any) -> None:
    class Newton(regression):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    module, loader = Newton(), make_loader(3)
    twin = deepcopy(module)
    optimizer = twin.configure_optimizers()
    for _ in range(2):
        for batch in loader:

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = twin.loss(batch)
                loss.backward()
                return loss

            optimizer.step(closure)
    trainer = make_trainer(logger=recorder, max_epochs=2)
    trainer.fit(module, loader)
    same_weights(twin, module)
    assert trainer.global_step == 6


def test_overridden_optimizer_step_changes_nothing_else(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Own(regression):
        def optimizer_step(
            self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
        ) -> None:
            optimizer.step(closure=optimizer_closure)

    compare(Own(), make_loader(), make_trainer, recorder, {}, gradient_clip_val=1e9)
