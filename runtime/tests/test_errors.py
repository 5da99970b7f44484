"""The table of docs/errors.md, walked row by row: each mistake raises the named error with the fix in its message.

A row names a case by its first column; a case without a row, and a row without a case, fail.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from scaffold_runtime import Callback, LightningDataModule, LightningModule, errors, seed_everything
from scaffold_runtime.callbacks import BackboneFinetuning, EarlyStopping, ModelCheckpoint
from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.plugins import MixedPrecision
from scaffold_runtime.strategies import DeepSpeedStrategy, FSDPStrategy
from scaffold_runtime.strategies.deepspeed import only_one
from scaffold_runtime.strategies.deepspeed_config import complete_config
from scaffold_runtime.strategies.fsdp import _check_shared

TABLE = Path(__file__).parents[2] / "docs" / "errors.md"


def out_of_memory(module: Any, batch: Any, batch_idx: int) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory.")


CASES: dict[str, Callable[[Any], object]] = {}


def case(function: Callable[[Any], object]) -> Callable[[Any], object]:
    CASES[function.__name__.replace("_", "-")] = function
    return function


def cases(**functions: Callable[[Any], object]) -> None:
    CASES.update({name.replace("_", "-"): function for name, function in functions.items()})


@pytest.fixture
def kit(regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path) -> Any:
    """What a case needs: `fit(module=, train=, val=, **trainer arguments)`, and the pieces."""
    trainers: list[Any] = []

    def trainer(**arguments: Any) -> Any:
        trainers.append(make_trainer(**arguments))
        return trainers[-1]

    def fit(
        module: Any = None, train: Any = 3, val: Any = 2, ckpt_path: Any = None, **arguments: Any
    ) -> Any:
        loaders = [make_loader(n) if isinstance(n, int) else n for n in (train, val)]
        made = trainer(**arguments)
        made.fit(module or regression(), *loaders, ckpt_path=ckpt_path)
        return made

    def module(**methods: Any) -> Any:
        return type("Net", (regression,), methods)()

    def optimizing(shape: Callable[[Any, Any], Any], **methods: Any) -> Any:
        def configure_optimizers(self: Any) -> Any:
            optimizer = SGD(self.parameters(), lr=0.1)
            return shape(optimizer, lr_scheduler.StepLR(optimizer, 1))

        return module(configure_optimizers=configure_optimizers, **methods)

    return SimpleNamespace(
        fit=fit, trainer=trainer, module=module, optimizing=optimizing, loader=make_loader,
        path=tmp_path, trainers=trainers, Net=regression,
    )  # fmt: skip


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


STREAM = DataLoader(Stream(), batch_size=None)

# -- the model ------------------------------------------------------------------------------------

cases(
    not_a_lightning_module=lambda kit: kit.fit(nn.Linear(4, 1)),
    no_super_init=lambda kit: kit.fit(
        type("Net", (LightningModule,), {"__init__": lambda self: None})()
    ),
    loader_first=lambda kit: kit.trainer().fit(kit.loader(1), kit.module()),
    step_without_self=lambda kit: kit.fit(kit.module(training_step=lambda batch, batch_idx: None)),
    model_class=lambda kit: kit.fit(kit.Net),
    no_training_step=lambda kit: kit.fit(LightningModule()),
    step_with_other_arguments=lambda kit: kit.fit(
        kit.module(training_step=lambda self, batch, batch_idx, optimizer_idx: None)
    ),
    no_configure_optimizers=lambda kit: kit.fit(
        kit.module(configure_optimizers=LightningModule.configure_optimizers)
    ),
    no_test_step=lambda kit: kit.trainer().test(
        kit.module(test_step=LightningModule.test_step), kit.loader(1)
    ),
    no_model=lambda kit: kit.trainer().test(),
    module_without_trainer=lambda kit: kit.module().trainer,
    nothing_to_save=lambda kit: kit.trainer().save_checkpoint(kit.path / "a.ckpt"),
)

# -- the data -------------------------------------------------------------------------------------

cases(
    no_data=lambda kit: kit.trainer().fit(kit.module()),
    loaders_and_data_module=lambda kit: kit.trainer().fit(
        kit.module(), kit.loader(1), datamodule=LightningDataModule()
    ),
    two_data_modules=lambda kit: kit.trainer().fit(
        kit.module(), LightningDataModule(), datamodule=LightningDataModule()
    ),
    loader_method_returns_nothing=lambda kit: kit.trainer().fit(
        kit.module(train_dataloader=lambda self: None)
    ),
    data_module_in_a_loaders_place=lambda kit: kit.fit(val=LightningDataModule()),
    data_module_hook_without_its_argument=lambda kit: kit.trainer().fit(
        kit.module(),
        type(
            "Data",
            (LightningDataModule,),
            {"setup": lambda self: None, "train_dataloader": lambda self: kit.loader(1)},
        )(),
    ),
    empty_loader_among_several=lambda kit: kit.fit(
        train=[DataLoader([1], batch_size=2), DataLoader([], batch_size=2)]  # type: ignore[arg-type]
    ),
    stream_without_a_batch=lambda kit: kit.fit(train=iter(())),
    empty_loader=lambda kit: kit.fit(train=DataLoader([], batch_size=2)),  # type: ignore[arg-type]
    several_loaders_without_index=lambda kit: kit.fit(val=[kit.loader(1), kit.loader(1)]),
    fraction_of_a_stream=lambda kit: kit.fit(train=STREAM, limit_train_batches=0.5),
    fraction_leaves_nothing=lambda kit: kit.fit(limit_train_batches=0.1),
    validate_within_a_stream=lambda kit: kit.fit(train=STREAM, val_check_interval=0.5),
    validate_after_the_epoch=lambda kit: kit.fit(val_check_interval=7),
    combined_mode=lambda kit: CombinedLoader([kit.loader(1)], "longest"),
)

# -- what steps return ----------------------------------------------------------------------------


def by_hand(self: Any, batch: Any, batch_idx: int) -> Any:
    loss = self.loss(batch)
    loss.backward()
    return loss


def returning(output: Any) -> Callable[[Any], object]:
    return lambda kit: kit.fit(kit.module(training_step=lambda self, batch, batch_idx: output))


cases(
    loss_is_a_number=returning(0.5),
    loss_is_a_tuple=returning((torch.ones(1), 1)),
    dict_without_loss=returning({"los": torch.ones(1)}),
    loss_is_detached=lambda kit: kit.fit(
        kit.module(training_step=lambda self, batch, i: self.loss(batch).detach())
    ),
    backward_by_hand=lambda kit: kit.fit(kit.module(training_step=by_hand)),
    all_is_frozen=lambda kit: kit.fit(kit.module(setup=lambda self, stage: self.freeze())),
    loss_is_not_one_number=returning(torch.ones(3)),
    prediction_of_a_pair=lambda kit: kit.trainer().predict(
        kit.module(predict_step=LightningModule.predict_step), kit.loader(1)
    ),
)

# -- optimizers -----------------------------------------------------------------------------------


def configured(shape: Callable[[Any, Any], Any]) -> Callable[[Any], object]:
    return lambda kit: kit.fit(kit.optimizing(shape))


def manual(**arguments: Any) -> Callable[[Any], object]:
    return lambda kit: kit.fit(kit.module(automatic_optimization=False), **arguments)


cases(
    not_an_optimizer=configured(lambda o, s: "adam"),
    scheduler_in_an_optimizers_place=configured(lambda o, s: (o, s)),
    misspelt_optimizer_key=configured(lambda o, s: {"optimizer": o, "lr_schedulers": s}),
    dict_without_optimizer=configured(lambda o, s: {"lr_scheduler": s}),
    misspelt_scheduler_key=configured(lambda o, s: ([o], [{"scheduler": s, "frequence": 2}])),
    dict_without_scheduler=configured(lambda o, s: ([o], [{"interval": "step"}])),
    unknown_interval=configured(lambda o, s: ([o], [{"scheduler": s, "interval": "batch"}])),
    frequency_of_zero=configured(lambda o, s: ([o], [{"scheduler": s, "frequency": 0}])),
    scheduler_without_step=configured(lambda o, s: ([o], [object()])),
    plateau_without_monitor=configured(lambda o, s: ([o], [lr_scheduler.ReduceLROnPlateau(o)])),
    scheduler_of_another_optimizer=configured(
        lambda o, s: ([SGD(o.param_groups[0]["params"], lr=0.1)], [s])
    ),
    two_optimizers_in_automatic_optimization=configured(
        lambda o, s: [o, SGD(o.param_groups[0]["params"], lr=0.1)]
    ),
    clipping_in_manual_optimization=manual(gradient_clip_val=1.0),
    accumulation_in_manual_optimization=manual(accumulate_grad_batches=2),
    manual_backward_in_automatic_optimization=lambda kit: kit.fit(
        kit.module(training_step=lambda self, batch, i: self.manual_backward(self.loss(batch)))
    ),
    lbfgs_with_a_scaler=lambda kit: kit.fit(
        kit.module(configure_optimizers=lambda self: torch.optim.LBFGS(self.parameters())),
        precision="16-mixed",
    ),
    lbfgs_with_accumulation=lambda kit: kit.fit(
        kit.module(configure_optimizers=lambda self: torch.optim.LBFGS(self.parameters())),
        accumulate_grad_batches=2,
    ),
    lbfgs_cut_to_fit=lambda kit: kit.fit(
        kit.module(configure_optimizers=lambda self: torch.optim.LBFGS(self.parameters())),
        accumulate_grad_batches="auto",
    ),
    closure_not_called=lambda kit: kit.fit(
        kit.module(optimizer_step=lambda self, e, i, optimizer, closure: optimizer.step())
    ),
    clipping_that_differs=lambda kit: kit.fit(
        kit.module(
            configure_gradient_clipping=lambda self, optimizer, **_: self.clip_gradients(
                optimizer, 2
            )
        ),
        gradient_clip_val=1.0,
    ),
    one_sample_is_too_much=lambda kit: kit.fit(
        kit.module(training_step=out_of_memory), accumulate_grad_batches="auto"
    ),
    batch_cannot_be_cut=lambda kit: kit.fit(
        kit.module(training_step=out_of_memory),
        DataLoader([0], collate_fn=lambda _: [torch.ones(4, 4), {1, 2}]),
        accumulate_grad_batches="auto",
    ),
)


@case
def plateau_metric_not_logged(kit: Any) -> None:
    plateau = lambda o, s: {  # noqa: E731 - a shape like the others
        "optimizer": o, "lr_scheduler": lr_scheduler.ReduceLROnPlateau(o), "monitor": "los",
    }  # fmt: skip
    kit.fit(kit.optimizing(plateau))


# -- hooks and callbacks --------------------------------------------------------------------------


def with_hook(name: str, hook: Any) -> Any:
    return type("Mine", (Callback,), {name: hook})()


class Stateful(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}


cases(
    misspelt_hook=lambda kit: kit.fit(callbacks=with_hook("on_train_epochs_end", lambda *a: None)),
    misspelt_hook_of_a_module=lambda kit: kit.fit(kit.module(on_train_begin=lambda self: None)),
    removed_hook=lambda kit: kit.fit(kit.module(validation_epoch_end=lambda self, outputs: None)),
    wrong_hook_arguments=lambda kit: kit.fit(
        callbacks=with_hook("on_train_epoch_end", lambda self, trainer: None)
    ),
    callback_class=lambda kit: kit.trainer(callbacks=[Stateful]),
    two_callbacks_with_one_state_key=lambda kit: kit.fit(callbacks=[Stateful(), Stateful()]),
    monitor_not_logged_in_validation=lambda kit: kit.fit(callbacks=EarlyStopping("val_los")),
    monitor_not_logged_at_all=lambda kit: kit.fit(
        callbacks=ModelCheckpoint(monitor="accuracy"), enable_checkpointing=True, val=None
    ),
    monitor_of_no_validation=lambda kit: kit.fit(callbacks=EarlyStopping("val_loss"), val=None),
    run_within_a_run=lambda kit: kit.fit(
        kit.module(on_train_epoch_end=lambda self: kit.trainer().validate(self, kit.loader(1)))
    ),
    early_stopping_mode=lambda kit: EarlyStopping("val_loss", mode="lowest"),
    early_stopping_patience=lambda kit: EarlyStopping("val_loss", patience=-1),
    checkpoint_mode=lambda kit: ModelCheckpoint(mode="best"),
    two_checkpoint_triggers=lambda kit: ModelCheckpoint(every_n_epochs=1, every_n_train_steps=5),
    checkpoint_name_that_cannot_be_filled=lambda kit: ModelCheckpoint(filename="{loss:.2q}"),
    top_k_without_monitor=lambda kit: ModelCheckpoint(save_top_k=3),
)

# -- logging --------------------------------------------------------------------------------------


def logging(*arguments: Any, **options: Any) -> Callable[[Any], object]:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.log(*arguments, **options)
        return self.loss(batch)

    return lambda kit: kit.fit(kit.module(training_step=training_step))


def log_x(self: Any, *arguments: Any) -> None:
    self.log("x", 1.0)


@case
def logged_twice_with_other_options(kit: Any) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        self.log("loss", 1.0)
        self.log("loss", 1.0, prog_bar=True)
        return self.loss(batch)

    kit.fit(kit.module(training_step=training_step))


@case
def logged_a_metric_made_anew(kit: Any) -> None:
    from torchmetrics import MeanMetric

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        mean = MeanMetric()
        mean.update(1.0)
        self.log("mean", mean, on_epoch=True)
        return self.loss(batch)

    kit.fit(kit.module(training_step=training_step))


cases(
    logged_in_setup=lambda kit: kit.fit(kit.module(setup=log_x)),
    logged_in_predict=lambda kit: kit.trainer().predict(
        kit.module(predict_step=log_x), kit.loader(1)
    ),
    logged_a_vector=logging("x", torch.ones(2)),
    logged_a_text=logging("x", "high"),
    logged_with_a_text_as_batch_size=logging("x", 1.0, batch_size="4"),
    logged_without_a_name=logging(3, 1.0),
    logged_nowhere=logging("x", 1.0, on_step=False, on_epoch=False),
    unknown_reduction=logging("x", 1.0, reduce_fx="median"),
    on_step_in_an_epoch_hook=lambda kit: kit.fit(
        kit.module(on_train_epoch_end=lambda self: self.log("x", 1.0, on_step=True))
    ),
)


@case
def object_in_a_checkpoint(kit: Any) -> None:
    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["vocabulary"] = Stream()

    kit.fit(
        kit.module(on_save_checkpoint=on_save_checkpoint),
        callbacks=[ModelCheckpoint(kit.path)],
        enable_checkpointing=True,
    )


# -- the trainer's arguments ----------------------------------------------------------------------


@case
def shared_weight_apart(kit: Any) -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    _check_shared(nn.Sequential(one, other), [one, other])


@case
def empty_layer(kit: Any) -> None:
    def configure_model(self: Any) -> None:
        self.own = nn.Module()
        self.own.weight = nn.Parameter(torch.empty(1, device="meta"))

    kit.fit(kit.module(configure_model=configure_model))


def arguments(**given: Any) -> Callable[[Any], object]:
    return lambda kit: kit.trainer(**given)


cases(
    unknown_precision=arguments(precision="8-bit"),
    two_precisions=arguments(precision=16, plugins=[MixedPrecision("bf16-mixed", "cpu")]),
    unknown_plugin=arguments(plugins=["fast"]),
    unknown_accelerator=arguments(accelerator="abacus"),
    unknown_strategy=arguments(strategy="telepathy"),
    fsdp_by_hand=lambda kit: FSDPStrategy().prepare(
        kit.module(automatic_optimization=False), [object()], None
    ),
    divided_elsewhere=lambda kit: kit.fit(kit.module(_divider="FSDP")),
    finetuning_under_deepspeed=lambda kit: BackboneFinetuning().on_fit_start(
        SimpleNamespace(optimizers=[SGD([torch.zeros(9)])]), kit.module()
    ),
    unknown_sharding=lambda kit: FSDPStrategy(sharding_strategy="NO_SHARD"),
    unknown_state_dict_type=lambda kit: FSDPStrategy(state_dict_type="whole"),
    no_devices=arguments(devices=0),
    nodes_without_an_address=lambda kit: kit.fit(devices=1, num_nodes=2, strategy="ddp"),
    wrong_limit=arguments(limit_train_batches=1.5),
    wrong_epochs=arguments(max_epochs=1.5),
    wrong_duration=arguments(max_time="12:00"),
    wrong_interval=arguments(val_check_interval=1.2),
    fraction_across_epochs=arguments(check_val_every_n_epoch=None),
    wrong_accumulation=arguments(accumulate_grad_batches=0),
    wrong_clipping=arguments(gradient_clip_algorithm="l2"),
    wrong_determinism=arguments(deterministic="yes"),
    not_a_logger=arguments(logger="tensorboard"),
    unknown_profiler=arguments(profiler="fast"),
    barebones_with_a_progress_bar=arguments(barebones=True, enable_progress_bar=True),
    checkpointing_off_and_on=arguments(callbacks=ModelCheckpoint()),
    wrong_seed=lambda kit: seed_everything(-1),
)


@case
def no_gpu(kit: Any) -> None:
    nothing = lambda: False  # noqa: E731 - as on a machine without one
    with (
        patch("torch.cuda.is_available", nothing),
        patch("torch.backends.mps.is_available", nothing),
    ):
        kit.trainer(accelerator="gpu")


# -- hyperparameters and checkpoints --------------------------------------------------------------


class Keeping(LightningModule):
    def __init__(self, backbone: Any = None, *names: str) -> None:
        super().__init__()
        self.save_hyperparameters(*names)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).mean()

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


class Wider(Keeping):
    def __init__(self, **rest: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)


def saved(kit: Any, weights_only: bool = False, module: Any = None) -> Path:
    path: Path = kit.path / "a.ckpt"
    trainer = kit.trainer()
    trainer.fit(module or Keeping(), kit.loader(1))
    trainer.save_checkpoint(path, weights_only)
    kit.trainers.clear()  # what follows is the case
    return path


@case
def unfinished_checkpoint(kit: Any) -> None:
    Path("step=10.ckpt").mkdir()
    Keeping.load_from_checkpoint("step=10.ckpt")


@case
def hyperparameters_file_of_no_kind(kit: Any) -> None:
    Path("tags.csv").write_text("key,value\nlr,0.7\n")
    Keeping.load_from_checkpoint(saved(kit), hparams_file="tags.csv")


@case
def best_of_a_trainer_that_keeps_none(kit: Any) -> None:
    kit.fit()
    kit.trainers[-1].test(kit.Net(), kit.loader(1), ckpt_path="best")


@case
def weights_as_a_checkpoint(kit: Any) -> None:
    torch.save(Keeping(None).state_dict(), kit.path / "weights.pt")
    Keeping.load_from_checkpoint(kit.path / "weights.pt")


@case
def model_as_a_checkpoint(kit: Any) -> None:
    torch.save(nn.Linear(1, 1), kit.path / "model.pt")
    Keeping.load_from_checkpoint(kit.path / "model.pt")


@case
def damaged_checkpoint(kit: Any) -> None:
    path = saved(kit)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    Keeping.load_from_checkpoint(path)


cases(
    hyperparameter_is_no_argument=lambda kit: Keeping(None, "backbonne"),
    hyperparameters_of_no_kind=lambda kit: Keeping(None).save_hyperparameters(3),
    hyperparameter_is_not_plain=lambda kit: Keeping.load_from_checkpoint(
        saved(kit, module=Keeping(nn.Linear(1, 1)))
    ),
    remote_address=lambda kit: kit.trainer(default_root_dir="s3://bucket/runs"),
    removed_argument=lambda kit: kit.trainer(gpus=1),
    misspelt_argument=lambda kit: kit.trainer(max_epoch=1),
    hyperparameter_unknown=lambda kit: Keeping(None).hparams.backbonne,
    hyperparameters_outside_of_init=lambda kit: kit.fit(
        kit.module(setup=lambda self, stage: self.save_hyperparameters())
    ),
    checkpoint_path_of_no_kind=lambda kit: kit.fit(ckpt_path=True),
    missing_checkpoint=lambda kit: kit.trainer().test(
        kit.module(), kit.loader(1), ckpt_path="elsewhere.ckpt"
    ),
    no_best_checkpoint=lambda kit: kit.trainer().test(
        kit.module(), kit.loader(1), ckpt_path="best"
    ),
    no_last_checkpoint=lambda kit: kit.trainer().test(
        kit.module(), kit.loader(1), ckpt_path="last"
    ),
    restore_of_nothing=lambda kit: kit.trainer().fit(
        kit.module(), kit.loader(1), restore="weights"
    ),
    restore_unknown=lambda kit: kit.trainer().fit(
        kit.module(), kit.loader(1), ckpt_path="last", restore="weight"
    ),
    restore_keys_of_all=lambda kit: kit.trainer().fit(
        kit.module(), kit.loader(1), ckpt_path="last", restore_keys="head.*"
    ),
    restore_other_weights=lambda kit: kit.trainer().fit(
        Keeping(), kit.loader(1), ckpt_path=saved(kit), restore="weights", restore_keys="none.*"
    ),
    resume_from_weights=lambda kit: kit.trainer().fit(
        Keeping(), kit.loader(1), ckpt_path=saved(kit, weights_only=True)
    ),
    weights_do_not_fit=lambda kit: Wider.load_from_checkpoint(saved(kit)),
    onnx_without_an_input=lambda kit: Keeping().to_onnx(kit.path / "a.onnx"),
)


# -- DeepSpeed and TPUs ---------------------------------------------------------------------------


@contextmanager
def missing(package: str) -> Iterator[None]:
    """As on a machine without it."""
    with patch.dict(sys.modules, {package: None}):
        yield


@case
def deepspeed_not_installed(kit: Any) -> None:
    with missing("deepspeed"):
        kit.fit(strategy="deepspeed")


@case
def tpu_without_torch_xla(kit: Any) -> None:
    with missing("torch_xla"):
        kit.trainer(accelerator="tpu")


def deepspeed(config: dict[str, Any], **settings: Any) -> Callable[[Any], object]:
    return lambda kit: complete_config(config, kit.trainer(**settings))


cases(
    deepspeed_config_missing=lambda kit: DeepSpeedStrategy(config=kit.path / "none.json"),
    deepspeed_with_an_optimizer=lambda kit: DeepSpeedStrategy(config={"optimizer": {}}),
    deepspeed_batch_size=deepspeed({"train_batch_size": 9}, accumulate_grad_batches=2),
    deepspeed_accumulates_otherwise=deepspeed({"gradient_accumulation_steps": 4}),
    deepspeed_precision=deepspeed({}, precision="64-true"),
    deepspeed_clips_by_value=deepspeed({}, gradient_clip_val=1.0, gradient_clip_algorithm="value"),
    deepspeed_two_optimizers=lambda kit: only_one([SGD(kit.Net().parameters(), lr=0.1)] * 2),
    xla_without_a_tpu=arguments(strategy="xla"),
)


# -- the walk -------------------------------------------------------------------------------------


def rows() -> dict[str, tuple[str, str, bool]]:
    """id -> (error, what its message says, whether it comes before training)."""
    found = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and re.fullmatch(r"`[a-z0-9-]+`", cells[0]):
            name, _, error, says, before = cells
            found[name.strip("`")] = (error.strip("`"), says.replace("\\|", "|"), before == "yes")
    return found


def test_the_table_and_the_cases_agree() -> None:
    assert set(rows()) == set(CASES)
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_row(name: str, kit: Any) -> None:
    error, says, before = rows()[name]
    expected = getattr(errors, error, None) or getattr(builtins, error)
    with pytest.raises(expected) as raised:
        CASES[name](kit)
    assert type(raised.value) is expected
    assert says in str(raised.value)
    assert before == all(trainer.progress.batches == 0 for trainer in kit.trainers)
