import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune_example.backbones import add_adapters, load_backbone, make_backbone


class FineTuned(LightningModule):
    def __init__(
        self,
        backbone: str = "digits",
        pretrained: str = "",
        classes: int = 5,
        rank: int = 0,
        lr: float = 5e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone, features = make_backbone(backbone)
        self.head = nn.Linear(features, classes)
        if rank:
            add_adapters(self.backbone, rank)

    def setup(self, stage: str) -> None:
        found = getattr(self.trainer.datamodule, "classes", 0)
        if found > self.hparams.classes:
            raise MisconfigurationException(
                f"the data have {found} classes, and the model has "
                f"{self.hparams.classes}: set model.classes to {found}."
            )
        if stage == "fit" and self.hparams.pretrained:  # written by `prepare_data`
            load_backbone(self.backbone, self.hparams.pretrained)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(dim=1)

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        logits, labels = self(batch[0]), batch[1]
        loss, accuracy = cross_entropy(logits, labels), logits.argmax(1) == labels
        self.log(f"{stage}_loss", loss)
        self.log(f"{stage}_acc", accuracy.float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        return torch.optim.AdamW(trained, lr=self.hparams.lr)
