"""A small byte-level GPT."""

import math

import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention


class Block(nn.Module):
    """A transformer block: causal self-attention, then an MLP, both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.before_mlp = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))

    def attention(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind()
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256))
        self.apply(self.init_weights)

    def init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.blocks(self.token(tokens) + self.position(positions)))


class LanguageModel(LightningModule):
    def __init__(
        self,
        context: int = 128,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        lr: float = 3e-3,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = GPT(context, width, depth, heads)

    def setup(self, stage: str) -> None:
        needed = getattr(self.trainer.datamodule, "context", 0)
        context = self.hparams.context
        if needed > context:
            raise MisconfigurationException(
                f"data.context is {needed}, and the model sees only {context} bytes: "
                f"set model.context to {needed}."
            )
        if self.hparams.compile:
            self.backbone.compile()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.backbone(tokens)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.generate(batch[0], 16)

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        """Return the loss in nats, and log it in bits per byte."""
        loss = cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())
        self.log(f"{stage}_bpb", loss / math.log(2), prog_bar=True)
        return loss

    @torch.no_grad()
    def generate(self, tokens: Tensor, length: int, temperature: float = 0.8) -> Tensor:
        """Generate `length` bytes after `tokens` (batch, time), sampled one by one."""
        for _ in range(length):
            logits = self(tokens[:, -self.hparams.context :])[:, -1]
            probs = (logits.float() / temperature).softmax(dim=1)
            tokens = torch.cat([tokens, probs.multinomial(1)], dim=1)
        return tokens

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams.lr, (0.9, 0.95))
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.hparams.lr, total_steps=steps, pct_start=0.1
        )
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]
