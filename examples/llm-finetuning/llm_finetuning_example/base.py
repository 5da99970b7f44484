"""A base model to start from: a small Llama, pretrained on text of the calendar.

It can continue a list of dates, but has not learned to answer questions.
"""

import os
from pathlib import Path
from typing import Any

import torch
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader

from llm_finetuning_example.days import pages
from llm_finetuning_example.tokens import pad

BASE, BATCH, LR = "data/base", 16, 5e-3
TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'A: ' if message.role == 'assistant' else 'Q: ' }}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n' }}"
    "{% endfor %}{{ 'A: ' if add_generation_prompt }}"
)


class Pretraining(LightningModule):
    """Next-token prediction on all tokens."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.network(batch["input_ids"], labels=batch["labels"]).loss

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LR, total_steps=steps, pct_start=0.1
        )
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


def make_base(folder: str, steps: int = 300) -> None:
    """Write a model and its byte-level tokenizer, unless they exist."""
    from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    path = Path(folder)
    if path.exists():
        return
    disable_progress_bar()
    tokenizer = ByT5Tokenizer(extra_ids=0, chat_template=TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with isolate_rng():  # later random numbers must not depend on whether this ran
        torch.manual_seed(0)
        network = LlamaForCausalLM(config)
        texts = [tokenizer(page)["input_ids"] for page in pages(BATCH * steps)]
        items: Any = [(torch.tensor(text), torch.tensor(text)) for text in texts]
        loader = DataLoader(items, BATCH, collate_fn=pad)
        options: Any = {"accelerator": "cpu", "gradient_clip_val": 1.0}
        trainer = Trainer(max_epochs=1, barebones=True, **options)
        trainer.print(f"pretraining a small base model, once: {folder}")
        trainer.fit(Pretraining(network), loader)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    for each in (network, tokenizer):
        each.save_pretrained(partial)
    partial.replace(path)  # written atomically
