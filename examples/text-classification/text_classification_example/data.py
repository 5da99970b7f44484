from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from text_classification_example.lines import Buckets, pad, split_lines


class TextDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "stdlib",
        fold: int | None = None,
        folds: int = 5,
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.lines, self.batch_size = (source, seed, fold, folds), batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        split_lines(*self.lines)  # checks the file, once per machine

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = split_lines(*self.lines)
        self.classes = len(self.train.names)

    def train_dataloader(self) -> DataLoader:
        options = {"collate_fn": pad, **self.options}
        buckets = Buckets(self.train.lengths, self.batch_size)
        return DataLoader(self.train, batch_sampler=buckets, **options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, collate_fn=pad, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, collate_fn=pad, **self.options)

    predict_dataloader = test_dataloader
