"""A run that is interrupted and resumed ends as if it had never stopped."""

import json
from pathlib import Path

import pytest
from scaffold_runtime.testing import check_resume

from llm_finetuning_example.base import make_base
from llm_finetuning_example.data import ChatDataModule
from llm_finetuning_example.days import questions
from llm_finetuning_example.model import Assistant


@pytest.mark.parametrize("rank", [0, 2])
def test_an_interrupted_run_resumes_exactly(tmp_path: Path, rank: int) -> None:
    base, file = str(tmp_path / "base"), tmp_path / "chats.jsonl"
    make_base(base, steps=2)
    rows = [{"prompt": prompt, "response": text} for prompt, text in questions(40)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    check_resume(
        lambda: (Assistant(base, rank), ChatDataModule(str(file), batch_size=4)),
        tmp_path,
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=2,
        accelerator="cpu",
    )
