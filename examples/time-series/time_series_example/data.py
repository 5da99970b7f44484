from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from time_series_example.series import split_windows


class SeriesDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "co2",
        column: str = "value",
        history: int = 36,
        horizon: int = 12,
        batch_size: int = 32,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.series = source, column, history, horizon
        self.lengths, self.batch_size = (history, horizon), batch_size
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}

    def prepare_data(self) -> None:
        split_windows(*self.series)  # checks the file, once per machine

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = split_windows(*self.series)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size, **self.options)

    predict_dataloader = test_dataloader
