import torch
from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset, random_split


class DataModule(LightningDataModule):
    def __init__(
        self,
        features: int = 8,
        batch_size: int = 32,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.features, self.seed, self.batch_size = features, seed, batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        """Download or convert here. Runs once per machine: do not assign to `self`."""

    def setup(self, stage: str) -> None:
        # create your data sets here: any map-style Dataset
        generator = torch.Generator().manual_seed(self.seed)
        inputs = torch.randn(512, self.features, generator=generator)
        dataset = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
        parts = random_split(dataset, [0.7, 0.15, 0.15], generator)
        self.train, self.val, self.test = parts

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
