"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from llm_finetuning_example.data import ChatDataModule
from llm_finetuning_example.model import Assistant

if __name__ == "__main__":
    run(Assistant, ChatDataModule)
