"""Generates text after each epoch."""

from pathlib import Path
from typing import Any

import torch
from scaffold_runtime import Callback, Trainer


class Samples(Callback):
    def __init__(self, prompt: str = "def ", length: int = 200) -> None:
        self.prompt, self.length = prompt, length

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.loggers:
            return
        text = self.sample(pl_module)  # on all ranks: each may hold a shard
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"----- epoch {trainer.current_epoch}\n{text}\n")

    def sample(self, pl_module: Any) -> str:
        prompt = torch.tensor([list(self.prompt.encode())], device=pl_module.device)
        (tokens,) = pl_module.generate(prompt, self.length).tolist()
        return bytes(tokens).decode(errors="replace")
