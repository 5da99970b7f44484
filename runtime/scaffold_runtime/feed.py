"""Feed: the loaders of each stage of a run, and this rank's batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch.utils._pytree import tree_unflatten

from scaffold_runtime.combined import Batches, CombinedLoader, flatten, gives_batches, loader_length
from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.hooks import overridden
from scaffold_runtime.loaders import (
    Passing,
    Repeatable,
    TrainSource,
    as_eval_loaders,
    as_train_loader,
    for_evaluation,
    limited,
)
from scaffold_runtime.module import LightningModule
from scaffold_runtime.sharding import Shares, unshuffled, whole

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

STAGES = {"fit": "train", "validate": "validation", "test": "test", "predict": "predict"}
SHORT = {"train": "train", "validation": "val", "test": "test", "predict": "predict"}
METHODS = {stage: f"{short}_dataloader" for stage, short in SHORT.items()}
LIMITS = {stage: f"limit_{short}_batches" for stage, short in SHORT.items()}


class Feed:
    """The loaders of a run, created when they are first needed, and again after `renew`."""

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        datamodule: LightningDataModule,
        given: dict[str, Any],
    ) -> None:
        self.trainer, self.module, self.datamodule = trainer, module, datamodule
        self.given = given  # loaders passed to fit, validate, test or predict
        self.shares: Shares | None = None  # the shards of the data
        self._sources: dict[str, Any] = {}  # loaders of evaluation stages, as given
        self._evaluated: dict[str, list[tuple[Any, Any]]] = {}

    def source(self, stage: str) -> Any:
        """The loader or loaders of a stage: those passed, else those of the data module, else of the module."""
        if self.given.get(stage) is not None:
            return _iterable(self.given[stage], f"what was passed for {stage}")
        name = METHODS[stage]
        owner = self.owner_of(name)
        if owner is None:
            return None
        return _iterable(getattr(owner, name)(), f"what {type(owner).__name__}.{name}() returned")

    def has(self, stage: str) -> bool:
        """Whether there are loaders for a stage, without creating them."""
        return self.given.get(stage) is not None or self.owner_of(METHODS[stage]) is not None

    def owner_of(self, hook: str) -> LightningDataModule | LightningModule | None:
        """The object that overrides this data hook; the data module comes before the module."""
        for owner, base in ((self.datamodule, LightningDataModule), (self.module, LightningModule)):
            if overridden(hook, owner, base):
                return owner
        return None

    def _in_order(self, loader: Any, stage: str) -> Any:
        overfits = self.trainer.fn == "fit" and self.trainer.overfit_batches > 0
        return unshuffled(loader, stage) if overfits else loader

    def renew(self, stage: str) -> None:
        """Create the loaders of a stage again when they are next needed."""
        self.close(stage)
        self._evaluated.pop(stage, None)
        if stage == "train":
            vars(self).pop("train", None)

    def close(self, *stages: str) -> None:
        """Stop workers that outlive a pass, in these stages or all."""
        for stage in stages or STAGES.values():
            evaluated = [iterable for _, iterable in self._evaluated.get(stage, [])]
            for source in [self.opened] if stage == "train" else evaluated:
                for part in source.iterables if isinstance(source, Batches) else [source]:
                    if isinstance(part, (TrainSource, Repeatable, Passing)):
                        part.close()

    def renew_if_due(self, epoch: int) -> None:
        """Apply `reload_dataloaders_every_n_epochs`."""
        every = self.trainer.reload_dataloaders_every_n_epochs
        if every and epoch and epoch % every == 0:
            self.renew("train")
            self.renew("validation")

    # -- evaluation -----------------------------------------------------------------------------

    def evaluated(self, stage: str) -> list[tuple[Any, Any]]:
        """The loaders of an evaluation stage, each with the iterable that evaluation uses in its place."""
        if stage not in self._evaluated:
            self._sources[stage] = source = self.source(stage)
            loaders = [self._in_order(each, stage) for each in as_eval_loaders(source)]
            if stage == "predict":
                loaders = [whole(loader) for loader in loaders]
            if self.shares is not None:
                loaders = [self.shares.of_evaluation(loader) for loader in loaders]
            self.replace(stage, loaders)
        return self._evaluated[stage]

    def replace(self, stage: str, loaders: list[Any]) -> None:
        """Evaluate over these loaders from now on."""
        self._evaluated[stage] = [(loader, for_evaluation(loader)) for loader in loaders]

    def eval_loaders(self, stage: str) -> list[Any]:
        return [loader for loader, _ in self.evaluated(stage)]

    def as_given(self, stage: str) -> Any:
        """The loaders of a stage in the list, dict or other structure in which they were given; None if they were not
        created yet."""
        if stage == "train":
            loaders, source = [self.opened.loader] if self.opened is not None else [], None
        else:
            loaders, source = self.eval_loaders(stage), self._sources.get(stage)
        if isinstance(source, CombinedLoader) and source.mode == "sequential":
            source = source.iterables
        if isinstance(source, (Mapping, list, tuple)):
            return tree_unflatten(loaders, flatten(source)[1])
        one = loaders[0] if loaders else None
        return one.iterables if isinstance(one, CombinedLoader) else one

    def limit_of(self, stage: str) -> int | float:
        """The trainer's `limit_*_batches` of an evaluation stage."""
        return getattr(self.trainer, LIMITS[stage])  # type: ignore[no-any-return] # a setting

    def lengths_of(self, stage: str) -> list[float]:
        """Number of batches to run of each evaluation loader."""
        limit, lengths = self.limit_of(stage), map(loader_length, self.eval_loaders(stage))
        return [limited(length, limit, LIMITS[stage]) for length in lengths]

    # -- training -------------------------------------------------------------------------------

    @cached_property
    def train(self) -> TrainSource:
        """The training batches.

        Raises:
            MisconfigurationException: if there are none.
        """
        trainer = self.trainer
        loader = self._in_order(as_train_loader(self.source("train")), "train")
        if self.shares is not None:
            loader = self.shares.of_training(loader)
        train = TrainSource(loader, trainer.limit_train_batches, several=trainer.world_size > 1)
        if train.several:
            lengths, counted = zip(
                *trainer.strategy.gather((train.length, train.counted)), strict=True
            )
            train.length, train.counted = self._agreed(lengths), all(counted)
        if train.length == 0 and trainer.limit_train_batches != 0:
            raise MisconfigurationException(
                "the training data loader is empty: its length is 0. Check the data set, and `drop_last` "
                "where the data set is smaller than a batch."
            )
        return train

    @property
    def opened(self) -> TrainSource | None:
        """The training batches, if they were created already."""
        return vars(self).get("train")

    def _agreed(self, lengths: Sequence[float]) -> float:
        """Every rank takes part in every step, so the one with the fewest batches determines the epoch's length."""
        if len(set(lengths)) > 1 and self.trainer.is_global_zero:
            warn(
                f"processes have {list(lengths)} training batches: each epoch ends after {min(lengths)}. "
                "Give all the same number to use them all."
            )
        return min(lengths)

    def in_step(self, batches: Iterator[tuple[Any, bool]]) -> Iterator[tuple[Any, bool]]:
        """For loaders without a length: before each batch, check that all ranks have one."""
        gather = self.trainer.strategy.gather
        goes_on = True
        while goes_on:
            batch, last = next(batches, (batches, True))
            has, goes_on = map(min, zip(*gather((batch is not batches, not last)), strict=True))
            if has:
                yield batch, not goes_on

    def in_order(self, outputs: list[Any]) -> list[Any]:
        """The predictions of all ranks, in the order of the data, on rank 0."""
        if self.shares is None:
            return outputs
        parts = self.trainer.strategy.gather_to_first(outputs)
        longest = max(map(len, parts))
        return [part[index] for index in range(longest) for part in parts if index < len(part)]


def _iterable(loader: Any, what: str) -> Any:
    if not gives_batches(loader):
        raise MisconfigurationException(
            f"{what} is a {type(loader).__name__}, which gives no batches: it must be a loader, or several in a "
            "list or dict. A data module goes in as `datamodule=...`."
        )
    return loader
