"""One script, several runs: what was wrapped or divided for the first is used again by the next."""

from __future__ import annotations

import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scaffold_runtime import Trainer
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.strategies import DDPStrategy, FSDPStrategy
from scaffold_runtime.strategies.launch import places, run_in_processes

from .conftest import SECONDS

TIMEOUT = timedelta(seconds=SECONDS)
STRATEGIES = {
    "ddp": lambda: DDPStrategy(timeout=TIMEOUT),
    "full": lambda: FSDPStrategy(timeout=TIMEOUT),
    "sharded": lambda: FSDPStrategy(timeout=TIMEOUT, state_dict_type="sharded"),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fit_test_best_predict_and_fit_again(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path, strategy: str
) -> None:
    """As under torchrun, where a script's runs share their processes."""

    class Adam(regression):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.05)

    def trainer(epochs: int, **arguments: Any) -> Trainer:
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        made: Trainer = make_trainer(
            devices=2,
            strategy=STRATEGIES[strategy](),
            max_epochs=epochs,
            callbacks=[keep],
            enable_checkpointing=True,
            num_sanity_val_steps=0,
            **arguments,
        )
        return made

    def weights(trainer: Any, module: Any) -> Tensor:
        whole = trainer.strategy.whole(dict(module.state_dict()))
        return torch.cat([value.reshape(-1) for value in whole.values()])

    def script() -> Any:
        torch.manual_seed(0)
        model, first = Adam(), trainer(2)
        first.fit(model, make_loader(8), make_loader(2))
        ended = weights(first, model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        (tested,) = first.test(model, make_loader(4), ckpt_path="best", verbose=False)
        loaded = weights(first, model)
        predicted = first.predict(model, make_loader(4))
        first.max_epochs = 3
        first.fit(model, make_loader(8), make_loader(2))
        on = weights(first, model)
        again = trainer(3)
        again.fit(model, make_loader(8), ckpt_path=tmp_path / "epoch=1.ckpt")
        other = Adam()
        trainer(3).fit(other, make_loader(8), ckpt_path=tmp_path / "epoch=1.ckpt")
        return ended, loaded, tested, predicted, on, weights(again, model), weights(again, other)

    ended, loaded, tested, predicted, on, again, other = run_in_processes(
        "fork", places(2, 1, 0), script, TIMEOUT
    )

    assert torch.equal(loaded, ended)
    assert not torch.equal(on, ended)
    assert torch.equal(again, other)
    assert not torch.equal(again, ended)
    assert len(predicted) == 4
    saved = read_checkpoint(tmp_path / "epoch=1.ckpt")["state_dict"]
    assert torch.equal(torch.cat([value.reshape(-1) for value in saved.values()]), ended)
    one = Adam()
    one.load_state_dict(saved)
    (alone,) = make_trainer().test(one, make_loader(4), verbose=False)
    assert tested["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-5)
    assert torch.allclose(
        torch.cat(predicted), torch.cat(make_trainer().predict(one, make_loader(4))), atol=1e-6
    )


def test_what_ddp_keeps_is_freed_when_a_run_ends(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Its copy of all gradients; and its hold on the process group, which Python must let go of last."""

    def script() -> list[Any]:
        trainer = make_trainer(devices=2, strategy=DDPStrategy(timeout=TIMEOUT), max_epochs=1)
        trainer.fit(regression(), make_loader(4))
        wrappers = [each for each in gc.get_objects() if isinstance(each, DistributedDataParallel)]
        assert wrappers, "the run is still there to be looked at"
        return [each.reducer for each in wrappers]

    assert run_in_processes("fork", places(2, 1, 0), script, TIMEOUT) == [None]
