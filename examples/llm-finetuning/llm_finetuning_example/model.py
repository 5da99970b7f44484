"""A language model that learns to answer: only answer tokens have a loss."""

from typing import Any

import torch
from scaffold_runtime import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy

from llm_finetuning_example.base import BASE, make_base
from llm_finetuning_example.network import (
    default_lr,
    load_network,
    load_tokenizer,
    trainable,
)
from llm_finetuning_example.tokens import prompts_of


class Assistant(LightningModule):
    def __init__(
        self,
        name: str = BASE,
        rank: int = 0,
        lr: float | None = None,
        warmup: float = 0.1,
        gradient_checkpointing: bool = False,
        new_tokens: int = 64,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def prepare_data(self) -> None:
        if self.hparams.name == BASE:
            make_base(BASE)  # unless the folder exists

    def configure_model(self) -> None:
        if hasattr(self, "network"):
            return
        name, rank = self.hparams.name, self.hparams.rank
        recompute = self.hparams.gradient_checkpointing
        self.tokenizer = load_tokenizer(name)
        self.network = load_network(name, rank, recompute, self.tokenizer)

    def forward(self, prompts: dict[str, Tensor], new_tokens: int) -> list[str]:
        """Greedy answers to left-padded prompts."""
        tokens = self.network.generate(
            input_ids=prompts["input_ids"],
            attention_mask=prompts["attention_mask"],
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        answers = tokens[:, prompts["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def read(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss and number of answer tokens, and which answers are all right."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        logits = self.network(**inputs, use_cache=False).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        loss = cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), reduction="sum"
        )
        answer = labels != -100
        right = ((logits.argmax(dim=2) == labels) | ~answer).all(dim=1)
        return loss, answer.sum(), right

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """All answer tokens of an accumulation window, on all ranks, weigh the same."""
        loss, tokens, right = self.read(batch)
        self.log("train_loss", loss / tokens, prog_bar=True)
        data: Any = self.trainer.datamodule
        return loss / (data.train.answer_length * len(right))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: dict[str, Any], stage: str) -> None:
        loss, tokens, right = self.read(batch)
        weight = batch["answer_tokens"]
        self.log(f"{stage}_loss", loss / tokens, batch_size=weight, prog_bar=True)
        self.log(f"{stage}_exact", right.float().mean(), batch_size=len(right))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[str]:
        return self(prompts_of(batch), self.hparams.new_tokens)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.hparams.rank:  # adapters only: the base model is stored elsewhere
            weights, own = checkpoint["state_dict"].items(), trainable(self)
            checkpoint["state_dict"] = {name: w for name, w in weights if name in own}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.hparams.rank:
            weights, own = self.state_dict().items(), trainable(self)
            frozen = {name: w for name, w in weights if name not in own}
            checkpoint["state_dict"] = frozen | checkpoint["state_dict"]

    def configure_optimizers(self) -> tuple[list, list]:
        from transformers import get_cosine_schedule_with_warmup

        lr = self.hparams.lr or default_lr(self.network, self.hparams.rank)
        optimizer = torch.optim.AdamW(trainable(self).values(), lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(
            optimizer, round(self.hparams.warmup * steps), steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
