from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from finetune_example.digits import known_digits, split_new_digits
from finetune_example.pretraining import pretrain


class DigitsDataModule(LightningDataModule):
    classes = 5

    def __init__(
        self,
        shots: int = 5,
        pretrained: str = "data/backbone.pt",
        batch_size: int = 8,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.digits, self.pretrained = (shots, seed), pretrained
        self.batch_size = batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        pretrain(known_digits(), self.pretrained)  # unless the file exists

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = split_new_digits(*self.digits)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 256, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, 256, **self.options)

    predict_dataloader = test_dataloader
