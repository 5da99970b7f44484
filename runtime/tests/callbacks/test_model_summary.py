"""ModelSummary and RichModelSummary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime.callbacks import ModelSummary, RichModelSummary
from scaffold_runtime.callbacks.model_summary import sizes_of, summarize
from scaffold_runtime.errors import MisconfigurationException


@pytest.fixture
def measured(regression) -> Any:
    module = regression()
    module.example_input_array = torch.ones(3, 4)
    return module


def test_sizes_parameters_and_flops_are_counted(measured) -> None:
    summary = summarize(measured, max_depth=2)

    found = {
        part.name: (part.kind, part.parameters, part.flops, part.in_size, part.out_size)
        for part in summary.layers
    }
    assert found == {
        "net": ("Sequential", 49, 2 * 3 * (4 * 8 + 8), [3, 4], [3, 1]),
        "net.0": ("Linear", 40, 2 * 3 * 4 * 8, [3, 4], [3, 8]),
        "net.1": ("Tanh", 0, 0, [3, 8], [3, 8]),
        "net.2": ("Linear", 9, 2 * 3 * 8, [3, 8], [3, 1]),
    }
    assert (summary.total_parameters, summary.trainable_parameters) == (49, 49)
    assert summary.total_flops == 240
    assert summary.model_size == pytest.approx(49 * 4 / 1e6)
    assert measured.training and all(part.training for part in measured.modules())


@pytest.mark.parametrize(("depth", "layers"), [(0, 0), (1, 1), (2, 4), (-1, 4)])
def test_depth_limits_the_layers_not_the_totals(depth: int, layers: int, measured) -> None:
    summary = summarize(measured, depth)

    assert len(summary.layers) == layers
    assert summary.total_parameters == 49


def test_without_example_there_are_no_sizes(regression) -> None:
    module = regression()
    module.net[0].weight.requires_grad = False
    module.net.eval()

    text = str(summarize(module))

    assert text.splitlines() == [
        "Layer  Type        Parameters  Mode",
        "net    Sequential          49  eval",
        "49 parameters (17 trainable), 0.00 MB",
        "4 of 4 layers in eval mode",
    ]


def test_examples_may_be_tuples_and_dicts(regression) -> None:
    class Two(regression):
        def forward(self, x: Any, scale: Any) -> Any:
            return self.net(x) * scale

    module = Two()
    for example in ((torch.ones(3, 4), torch.ones(1)), {"x": torch.ones(3, 4), "scale": 2.0}):
        module.example_input_array = example
        assert summarize(module).layers[0].in_size == [3, 4]
    assert sizes_of((torch.ones(2), [torch.ones(1), "a"])) == [[2], [[1], "?"]]


def test_the_example_leaves_random_numbers_and_statistics_alone(regression) -> None:
    module = regression()
    module.net = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    module.example_input_array = torch.ones(3, 4)
    state = torch.get_rng_state()

    summarize(module)

    assert torch.equal(torch.get_rng_state(), state)
    assert module.net[1].num_batches_tracked == 0


def test_it_is_printed_before_training(measured, make_loader, make_trainer, capsys) -> None:
    trainer = make_trainer(enable_model_summary=True, callbacks=ModelSummary(max_depth=-1))
    trainer.fit(measured, make_loader())

    out = capsys.readouterr().out
    assert "net.2" in out and "240 FLOPs in one forward pass" in out
    assert len([c for c in trainer.callbacks if isinstance(c, ModelSummary)]) == 1


def test_rich_draws_a_table(measured, make_loader, make_trainer, capsys) -> None:
    trainer = make_trainer(callbacks=RichModelSummary(max_depth=2, title="Layers"))
    trainer.fit(measured, make_loader())

    out = capsys.readouterr().out
    assert "Layers" in out and "net.0" in out and "49 parameters" in out and "━" in out


def test_a_wrong_depth_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="-2"):
        ModelSummary(max_depth=-2)


def test_layers_that_do_not_know_their_size_yet() -> None:
    summary = summarize(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)))
    assert (summary.total_parameters, summary.model_size) == (4, 16e-6)
