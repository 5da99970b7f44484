"""The counters of a run: one integer per level, advanced in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass

NEVER = 2**62  # larger than any count a run reaches

# `Progress.pending`: what the commit of a batch still has to do; UNDER_WAY: a batch is drawn, but not trained on yet.
DONE, ALL, VALIDATION, UNDER_WAY = range(4)


@dataclass(slots=True)
class Progress:
    """Counters of training. A checkpoint holds them, so a resumed run knows where it is.

    `epoch` counts finished epochs and so is the index of the current one; `batch` counts batches of
    the current epoch that were trained on; `batches` counts them over all epochs; `step` counts
    optimizer steps and is what Lightning calls `global_step`. `halvings`: batches are cut into 2 to this power
    parts to fit into memory. `updated`: whether the last batch ended with an optimizer step. `pending`: what the
    commit of the last batch still has to do.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    step: int = 0
    halvings: int = 0
    updated: int = 0
    pending: int = DONE

    def advance(self, updated: bool) -> None:
        """One more batch was trained on; `updated` says whether the optimizer stepped."""
        self.batch += 1
        self.batches += 1
        self.step += updated
        self.updated, self.pending = updated, ALL

    def finish_epoch(self) -> None:
        self.epoch += 1
        self.batch, self.pending = 0, DONE

    def state_dict(self) -> dict[str, int]:
        return {name: int(value) for name, value in asdict(self).items()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name in self.__slots__:
            setattr(self, name, int(state.get(name, 0)))
