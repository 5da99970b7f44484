from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from image_segmentation_example.masks import split_masks


class MaskDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "shapes",
        size: int = 48,
        batch_size: int = 16,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.masks = source, size, seed
        self.batch_size = batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        split_masks(*self.masks)  # checks the files, once per machine

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = split_masks(*self.masks)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
