"""LearningRateMonitor: names, intervals, values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaffold_runtime.callbacks import LearningRateMonitor
from scaffold_runtime.errors import MisconfigurationException


@pytest.fixture
def scheduled(regression) -> Any:
    """A module whose rate halves, every `interval`."""

    class Scheduled(regression):
        def __init__(
            self, interval: str = "epoch", name: str | None = None, groups: int = 1
        ) -> None:
            super().__init__()
            self.interval, self.name, self.groups = interval, name, groups

        def configure_optimizers(self) -> Any:
            parameters = list(self.parameters())
            parts = [{"params": parameters[i :: self.groups]} for i in range(self.groups)]
            optimizer = torch.optim.AdamW(parts, lr=0.8, weight_decay=0.1)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            config = {"scheduler": scheduler, "interval": self.interval, "name": self.name}
            return {"optimizer": optimizer, "lr_scheduler": config}

    return Scheduled


def train(
    module: Any, monitor: LearningRateMonitor, make_trainer: Any, loader: Any, **arguments: Any
) -> Any:
    from_logger = []

    def keep(metrics: dict[str, float], step: int | None = None) -> None:
        from_logger.append((step, {k: v for k, v in metrics.items() if k.startswith(("lr", "my"))}))

    trainer = make_trainer(max_epochs=2, callbacks=monitor, **keep_logger(keep), **arguments)
    trainer.fit(module, loader)
    return [(step, row) for step, row in from_logger if row]


def keep_logger(keep: Any) -> dict[str, Any]:
    from scaffold_runtime.loggers import CSVLogger

    logger = CSVLogger("logs")
    logger.log_metrics = keep  # type: ignore[method-assign] # look over its shoulder
    return {"logger": logger}


def test_rates_per_epoch(scheduled, make_loader, make_trainer) -> None:
    monitor = LearningRateMonitor()
    rows = train(scheduled(), monitor, make_trainer, make_loader(3))

    assert [row for _, row in rows] == [{"lr-AdamW": 0.8}, {"lr-AdamW": 0.4}]
    assert monitor.lrs == {"lr-AdamW": [0.8, 0.4]}


def test_rates_per_step(scheduled, make_loader, make_trainer) -> None:
    monitor = LearningRateMonitor("step")
    rows = train(scheduled("step"), monitor, make_trainer, make_loader(3))

    assert monitor.lrs["lr-AdamW"] == pytest.approx([0.8 * 0.5**i for i in range(6)])
    assert [step for step, _ in rows] == list(range(6))


def test_groups_names_momentum_and_decay(scheduled, make_loader, make_trainer) -> None:
    monitor = LearningRateMonitor("epoch", log_momentum=True, log_weight_decay=True)
    rows = train(scheduled(name="my", groups=2), monitor, make_trainer, make_loader(3))

    assert rows[0][1] == {
        f"my/pg{group}{part}": value
        for group in (1, 2)
        for part, value in (("", 0.8), ("-momentum", 0.9), ("-weight_decay", 0.1))
    }


def test_it_needs_a_logger_and_a_known_interval(scheduled, make_loader, make_trainer) -> None:
    with pytest.raises(MisconfigurationException, match="nothing to log to"):
        make_trainer(callbacks=LearningRateMonitor()).fit(scheduled(), make_loader(3))
    with pytest.raises(MisconfigurationException, match="'batch'"):
        LearningRateMonitor("batch")


def test_two_schedulers_of_one_optimizer_and_optimizers_without(
    regression, make_loader, make_trainer
) -> None:
    """Names, intervals and `callback_metrics` as Lightning has them."""

    class Two(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            slow = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            fast = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            return [optimizer], [slow, {"scheduler": fast, "interval": "step"}]

    class Manual(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            first, *rest = self.parameters()
            groups = [{"params": [first], "name": "w"}, {"params": rest, "name": "b"}]
            scheduled = torch.optim.SGD(self.parameters(), 0.2)
            optimizers = [torch.optim.SGD(groups, 0.1), scheduled]
            return optimizers, [torch.optim.lr_scheduler.StepLR(scheduled, 1)]

    def run(kind: Any) -> Any:
        monitor = LearningRateMonitor()
        trainer = make_trainer(max_epochs=2, callbacks=monitor, **keep_logger(lambda **_: None))
        trainer.log_every_n_steps = 2
        trainer.fit(kind(), make_loader(4))
        return monitor.lrs, {k for k in trainer.callback_metrics if k.startswith("lr")}

    rates, known = run(Two)
    assert rates == {"lr-SGD": [0.1, 0.0125], "lr-SGD-1": [0.1, 0.05, 0.0125, 0.00625]}
    assert known == {"lr-SGD", "lr-SGD-1"}
    rates, known = run(Manual)
    assert {name: len(values) for name, values in rates.items()} == {
        "lr-SGD": 2, "lr-SGD-1/w": 6, "lr-SGD-1/b": 6
    }  # fmt: skip
    assert known == set(rates)


def test_a_step_of_several_batches_is_one_row(scheduled, make_loader, make_trainer) -> None:
    arguments = {"accumulate_grad_batches": 2, "log_every_n_steps": 1}
    rows = train(
        scheduled("step"), LearningRateMonitor(), make_trainer, make_loader(3), **arguments
    )
    assert [(step, row["lr-AdamW"]) for step, row in rows] == [
        (0, 0.8),
        (1, 0.4),
        (2, 0.2),
        (3, 0.1),
    ]
