"""What a trainer is doing, in Lightning's words: `trainer.state.fn == TrainerFn.FITTING`, or just "fit"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Word(str, Enum):
    """A string with a name."""

    __str__ = str.__str__


class TrainerFn(Word):
    """Which method was called."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(Word):
    """Which loop runs."""

    TRAINING = "train"
    SANITY_CHECKING = "sanity_check"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"

    @property
    def evaluating(self) -> bool:
        """Whether this is validation, the sanity check or testing."""
        return self in (self.VALIDATING, self.TESTING, self.SANITY_CHECKING)

    @property
    def dataloader_prefix(self) -> str:
        """The prefix of the stage's loader method: `val` of `val_dataloader`."""
        validates = self in (self.VALIDATING, self.SANITY_CHECKING)
        return "val" if validates else str(self.value)


class TrainerStatus(Word):
    """Whether a run has started, and how it ended."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"

    @property
    def stopped(self) -> bool:
        """Whether the run is over."""
        return self in (self.FINISHED, self.INTERRUPTED)


@dataclass(frozen=True)
class TrainerState:
    """Status, function and stage of a trainer."""

    status: TrainerStatus = TrainerStatus.INITIALIZING
    fn: TrainerFn | None = None
    stage: RunningStage | None = None

    @property
    def finished(self) -> bool:
        """Whether the run ended without an error or interrupt."""
        return self.status == TrainerStatus.FINISHED
