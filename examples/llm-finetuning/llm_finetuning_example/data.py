from scaffold_runtime import LightningDataModule
from torch.utils.data import DataLoader

from llm_finetuning_example.chats import split_chats
from llm_finetuning_example.tokens import encode, pad


class ChatDataModule(LightningDataModule):
    def __init__(
        self,
        source: str = "calendar",
        max_tokens: int = 1024,
        batch_size: int = 16,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.chats, self.max_tokens = (source, seed), max_tokens
        self.options: dict = {"num_workers": num_workers, "pin_memory": pin_memory}
        self.options |= {"batch_size": batch_size, "collate_fn": pad}

    def prepare_data(self) -> None:
        split_chats(*self.chats)  # checks the file, once per machine

    def setup(self, stage: str) -> None:
        parts = encode(split_chats(*self.chats), self.max_tokens, self.trainer)
        self.train, self.val, self.test = parts

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, **self.options)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, **self.options)

    predict_dataloader = test_dataloader
