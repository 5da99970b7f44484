"""Writes answers of the model, before training and after each epoch."""

from pathlib import Path
from typing import Any

from scaffold_runtime import Callback, Trainer
from scaffold_runtime.data import move_data_to_device

from llm_finetuning_example.tokens import pad, prompts_of


class Samples(Callback):
    def __init__(self, count: int = 4, new_tokens: int = 64) -> None:
        self.count, self.new_tokens = count, new_tokens

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.loggers:
            return
        data: Any = trainer.datamodule
        first = range(min(self.count, len(data.val)))
        prompts = prompts_of(pad([data.val[n] for n in first]))
        prompts = move_data_to_device(prompts, pl_module.device)
        # on all ranks: each may hold a shard of the model
        answers = pl_module(prompts, self.new_tokens)
        if not trainer.is_global_zero:
            return
        when = f"epoch {trainer.current_epoch}"
        when = "before training" if trainer.sanity_checking else when
        questions = pl_module.tokenizer.batch_decode(
            prompts["input_ids"], skip_special_tokens=True
        )
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"----- {when}\n")
            for prompt, answer in zip(questions, answers, strict=True):
                file.write(f"{prompt}[{answer}]\n")
