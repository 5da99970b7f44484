"""Fast checks: the pieces fit together, and only answers are learned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scaffold_runtime import Callback, Trainer, seed_everything
from scaffold_runtime.errors import MisconfigurationException

from llm_finetuning_example.base import make_base
from llm_finetuning_example.chats import Chat, split_chats
from llm_finetuning_example.data import ChatDataModule
from llm_finetuning_example.export import export
from llm_finetuning_example.model import Assistant
from llm_finetuning_example.network import PLAIN, load_tokenizer
from llm_finetuning_example.tokens import IGNORED, Answers, item_of, pad, prompts_of

TALK = "Hello", "Hi", "And now?", "Bye"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "base"
    make_base(str(folder), steps=2)
    return str(folder)


@pytest.fixture
def chat() -> Chat:
    roles = ("user", "assistant") * 2
    messages = [{"role": r, "content": c} for r, c in zip(roles, TALK, strict=True)]
    return Chat(messages, "here")


@pytest.mark.parametrize("rank", [0, 2])
def test_one_batch_of_everything(base: str, rank: int) -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    model = Assistant(base, rank, gradient_checkpointing=bool(rank))
    trainer.fit(model, ChatDataModule(batch_size=4))
    assert trainer.global_step == 1


@pytest.mark.parametrize("plain", [False, True])
def test_only_answers_are_learned(base: str, chat: Chat, plain: bool) -> None:
    """With the tokenizer's own chat template, and with `PLAIN`."""
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = PLAIN if plain else tokenizer.chat_template
    tokens, labels = item_of(chat, tokenizer)
    learned = tokenizer.decode(tokens[labels != IGNORED])
    assert learned.replace("\n", "") == "Hi</s>Bye</s>"
    prompt = tokenizer.decode(prompts_of(pad([(tokens, labels)]))["input_ids"][0])
    assert "And now?" in prompt
    assert "Bye" not in prompt


def test_padding_does_not_matter(base: str, chat: Chat) -> None:
    model = Assistant(base)
    model.configure_model()
    item = item_of(chat, model.tokenizer)
    longer = torch.cat([item[0], item[0]]), torch.cat([item[1], item[1]])
    alone, beside = (pad(items) for items in ([item], [item, longer]))
    beside["labels"][1] = IGNORED
    torch.testing.assert_close(model.read(alone)[0], model.read(beside)[0])


def test_long_conversations_are_truncated_and_reported(
    base: str, chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = Answers([chat, chat], load_tokenizer(base), 15)
    assert [len(tokens) for tokens, _ in cut.items] == [15, 15]
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.validate(Assistant(base), ChatDataModule(max_tokens=60))
    assert (
        "2000 of 2000 conversations are cut after 60 tokens" in capsys.readouterr().out
    )
    with pytest.raises(MisconfigurationException, match="raise data.max_tokens"):
        trainer.validate(Assistant(base), ChatDataModule(max_tokens=20))


class Gradients(Callback):
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: Any
    ) -> None:
        self.found = [weight.grad.clone() for weight in pl_module.parameters()]


def test_tokens_weigh_the_same_in_a_batch_and_in_a_window(base: str) -> None:
    found = []
    for size, window in ((8, 1), (4, 2)):
        seed_everything(0)
        gradients = Gradients()
        options: Any = {"accumulate_grad_batches": window, "callbacks": [gradients]}
        options |= {"limit_val_batches": 0, "logger": False, "accelerator": "cpu"}
        trainer = Trainer(max_steps=1, enable_checkpointing=False, **options)
        trainer.fit(Assistant(base), ChatDataModule(batch_size=size))
        found.append(gradients.found)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_exported_is_what_was_trained(
    base: str, tmp_path: Path, rank: int
) -> None:
    from transformers import AutoModelForCausalLM

    model, data = Assistant(base, rank, lr=0.1), ChatDataModule(batch_size=4)
    options: Any = {"limit_train_batches": 2, "limit_val_batches": 1, "max_epochs": 1}
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", **options)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    weights = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert all(("lora" in name) == bool(rank) for name in weights)
    export(str(tmp_path / "one.ckpt"), tmp_path / "model")
    batch = next(iter(data.val_dataloader()))
    known = {key: batch[key] for key in ("input_ids", "attention_mask")}
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    expected = model.eval().network(**known).logits
    torch.testing.assert_close(network(**known).logits, expected)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"', "line 2: not JSON"),
        ('{"question": "a", "answer": "b"}', "line 2: .* has question, answer"),
        ('{"prompt": "a", "response": 5}', "line 2: .* both text"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 2: .* no answer"),
    ],
)
def test_a_bad_line_is_one_clear_error(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "chats.jsonl"
    good = '{"instruction": "a", "output": "b"}\n'
    file.write_text(good + line + "\n", encoding="utf-8")
    with pytest.raises(MisconfigurationException, match=says):
        split_chats(str(file), 0)
