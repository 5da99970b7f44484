"""A baseline: a bigram model, which counts how often one byte follows another."""

from typing import Any

import numpy as np
from scaffold_runtime import Callback, LightningModule, Trainer


class Bigram(Callback):
    """Prints the bits per byte of a bigram model beside the network's."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val_bpb" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        bits = bigram_bits(data.train.text, data.val.text)
        network = float(trainer.callback_metrics["val_bpb"])
        trainer.print(f"val_bpb {network:.3f}, bigram model {bits:.3f}")


def pairs(text: np.ndarray) -> np.ndarray:
    """How often each byte (row) is followed by each other (column)."""
    codes = text[:-1].astype(np.int64) * 256 + text[1:]
    return np.bincount(codes, minlength=65536).reshape(256, 256)


def bigram_bits(train: np.ndarray, held_out: np.ndarray) -> float:
    """Bits per byte of the bigrams of `train`, each counted once more than seen."""
    seen = pairs(train) + 1
    bits = -np.log2(seen / seen.sum(axis=1, keepdims=True))
    asked = pairs(held_out)
    return float((asked * bits).sum() / asked.sum())
