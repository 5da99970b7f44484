"""Tokenized conversations; only answer tokens have labels."""

from functools import cached_property
from os.path import commonprefix
from typing import Any

import torch
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from llm_finetuning_example.chats import Chat
from llm_finetuning_example.network import load_tokenizer

IGNORED = -100  # label of tokens that are not in an answer
Item = tuple[Tensor, Tensor]


class Answers(Dataset[Item]):
    """Conversations as tokens and labels, truncated if too long.

    A conversation whose answers are all cut off is left out.
    """

    def __init__(self, chats: list[Chat], tokenizer: Any, longest: int) -> None:
        whole = [item_of(chat, tokenizer) for chat in chats]
        self.cut = sum(len(tokens) > longest for tokens, _ in whole)
        items = [(tokens[:longest], labels[:longest]) for tokens, labels in whole]
        kept = [item for item in items if (item[1] != IGNORED).any()]
        # as arrays: each tensor takes a file descriptor in spawned workers
        self.items: list[Any] = [tuple(part.numpy() for part in item) for item in kept]
        self.lost = len(whole) - len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        tokens, labels = self.items[index]
        return torch.from_numpy(tokens), torch.from_numpy(labels)

    @cached_property
    def answer_length(self) -> float:
        """Mean number of answer tokens per conversation."""
        count = sum(int((labels != IGNORED).sum()) for _, labels in self.items)
        return count / len(self)


def encode(parts: list[list[Chat]], longest: int, trainer: Any) -> list[Answers]:
    """Tokenize conversations for the trained model, and report what is truncated."""
    tokenizer = load_tokenizer(trainer.lightning_module.hparams.name)
    context = tokenizer.model_max_length
    limit = "data.max_tokens" if longest < context else "the context of the model"
    longest = min(longest, context)
    encoded = [Answers(chats, tokenizer, longest) for chats in parts]
    if not all(encoded):
        raise MisconfigurationException(
            f"no answer starts within {longest} tokens ({limit}): shorten the prompts, "
            "or raise data.max_tokens."
        )
    cut, lost = (sum(getattr(e, key) for e in encoded) for key in ("cut", "lost"))
    if cut:
        trainer.print(
            f"{cut} of {sum(map(len, parts))} conversations are cut after {longest} "
            f"tokens ({limit}); {lost} have no answer before that, and are left out"
        )
    return encoded


def item_of(chat: Chat, tokenizer: Any) -> Item:
    tokens: list[int] = []
    labels: list[int] = []
    for text, is_answer in pieces(chat, tokenizer):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        tokens += ids
        labels += ids if is_answer else [IGNORED] * len(ids)
    return torch.tensor(tokens), torch.tensor(labels)


def pieces(chat: Chat, tokenizer: Any) -> list[tuple[str, bool]]:
    """The text of a conversation in pieces, and whether each piece is an answer."""
    result: list[tuple[str, bool]] = []
    done = ""
    for place, message in enumerate(chat.messages):
        if message["role"] == "assistant":
            before = formatted(chat, place, tokenizer, add_generation_prompt=True)
            after = formatted(chat, place + 1, tokenizer)
            prompt = commonprefix([before, after])
            if not prompt.startswith(done):  # the template changed earlier answers:
                result, done = [], ""  # they become part of the prompt
            result += [(prompt[len(done) :], False), (after[len(prompt) :], True)]
            done = after
    return result


def formatted(chat: Chat, count: int, tokenizer: Any, **options: bool) -> str:
    """The first `count` messages, formatted by the tokenizer's chat template."""
    from jinja2 import TemplateError

    messages = chat.messages[:count]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise MisconfigurationException(
            f"{chat.origin}: the chat template of the model rejects it: {error}"
        ) from None


def pad(items: list[Item]) -> dict[str, Any]:
    """A batch padded to the longest: input_ids, attention_mask and labels."""
    batch: dict[str, Any] = padded([tokens for tokens, _ in items], "right")
    batch["labels"] = pad_sequence([labels for _, labels in items], True, IGNORED)
    batch["answer_tokens"] = int((batch["labels"][:, 1:] != IGNORED).sum())
    return batch


def prompts_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The prompts before the last answers, left-padded."""
    prompts = []
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        end = int((labels != IGNORED).nonzero()[-1])
        prompt = (labels[:end] == IGNORED).nonzero()
        prompts.append(tokens[: int(prompt[-1]) + 1])
    return padded(prompts, "left")


def padded(tokens: list[Tensor], side: str) -> dict[str, Tensor]:
    masks = [torch.ones_like(each) for each in tokens]
    ids, mask = (pad_sequence(each, True, 0, side) for each in (tokens, masks))
    return {"input_ids": ids, "attention_mask": mask}
