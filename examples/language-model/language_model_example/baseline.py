"""A baseline: a bigram model, which predicts each byte from the one before it."""

from typing import Any

import numpy as np
from scaffold_runtime import Callback, LightningModule, Trainer


class Bigram(Callback):
    """Prints the bits per byte of the network and of a bigram model."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val_bpb" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        bits = bigram_bits(data.train.text, data.val.text)
        network = float(trainer.callback_metrics["val_bpb"])
        trainer.print(f"val_bpb {network:.3f}, bigram model {bits:.3f}")


def count_pairs(text: np.ndarray) -> np.ndarray:
    """How often each byte (row) is followed by each byte (column): (256, 256)."""
    codes = text[:-1].astype(np.int64) * 256 + text[1:]
    return np.bincount(codes, minlength=65536).reshape(256, 256)


def bigram_bits(train: np.ndarray, held_out: np.ndarray) -> float:
    """Bits per byte of `held_out`, by bigrams of `train` with add-one smoothing."""
    counts = count_pairs(train) + 1
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    pairs = count_pairs(held_out)
    return float((pairs * bits).sum() / pairs.sum())
