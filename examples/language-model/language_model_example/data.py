from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from language_model_example.corpus import Windows, read_corpus, write_corpus


class TextDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "stdlib",
        cache: str = "data",
        context: int = 128,
        batch_size: int = 8,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.corpus, self.context = (source, cache, seed), context
        self.batch_size = batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        write_corpus(*self.corpus)

    def setup(self, stage: str) -> None:
        parts = [Windows(text, self.context) for text in read_corpus(*self.corpus)]
        self.train, self.val, self.test = parts

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
