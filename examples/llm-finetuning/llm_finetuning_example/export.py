"""Exports the best model for transformers or peft."""

import os
from pathlib import Path
from typing import Any

from scaffold_runtime import Callback, Trainer

from llm_finetuning_example.model import Assistant


class Export(Callback):
    def __init__(self, merge: bool = True) -> None:
        self.merge = merge

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best and trainer.is_global_zero:
            folder = Path(best).parent.parent / "model"
            export(best, folder, self.merge)
            trainer.print(f"best model exported to {os.path.relpath(folder)}")


def export(checkpoint: str, folder: Path, merge: bool = True) -> None:
    """Write the model of a checkpoint, in the dtype of the base model.

    Adapters are merged into the model, or written alone: peft loads them onto the
    base model they were trained with.
    """
    from transformers import AutoConfig

    model = Assistant.load_from_checkpoint(checkpoint)
    network: Any = model.network
    if model.hparams.rank and merge:
        network = network.merge_and_unload()
    if not model.hparams.rank:
        network = network.to(AutoConfig.from_pretrained(model.hparams.name).dtype)
    for each in (network, network.generation_config, model.tokenizer):
        each.save_pretrained(folder)
