from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from generative_adversarial_example.images import split_images


class ImageDataModule(LightningDataModule):
    """Images, split into training, validation and test sets."""

    def __init__(
        self,
        source: str = "digits",
        path: str = "data",
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.images = source, path, seed
        self.batch_size = batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        split_images(*self.images)  # checks the files, once per machine

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = split_images(*self.images)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
