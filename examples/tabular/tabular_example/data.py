from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from tabular_example.split import sizes, split_table


class TabularDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "diabetes",
        target: str = "target",
        classify: bool = False,
        id: str | None = None,
        test: str | None = None,
        fold: int | None = None,
        folds: int = 5,
        batch_size: int = 32,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.table = source, target, classify, id, test, seed, fold, folds
        self.batch_size = batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = parts = split_table(stage, *self.table)
        self.features, self.classes, self.units = sizes(parts)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
