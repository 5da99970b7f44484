"""Conversations: read from a file, or questions about the calendar."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

from scaffold_runtime.errors import MisconfigurationException

from llm_finetuning_example.days import questions

Message = dict[str, str]
PAIRS = ("prompt", "response"), ("prompt", "completion"), ("instruction", "output")


class Chat(NamedTuple):
    messages: list[Message]
    origin: str  # such as "chats.jsonl, line 7"


def split_chats(source: str, seed: int) -> list[list[Chat]]:
    """Training, validation and test conversations, without overlap."""
    chats = read_calendar() if source == "calendar" else read_jsonl(source)
    chats = list({str(chat.messages): chat for chat in chats}.values())
    if len(chats) < 10:
        raise MisconfigurationException(
            f"{source} has {len(chats)} different conversations: too few."
        )
    random.Random(seed).shuffle(chats)
    held_out = min(len(chats) // 10, 1000)
    return [chats[2 * held_out :], chats[:held_out], chats[held_out : 2 * held_out]]


def read_calendar() -> list[Chat]:
    return [Chat(to_messages(*pair), "calendar") for pair in questions(2000)]


def read_jsonl(source: str) -> list[Chat]:
    path = Path(source)
    if path.suffix != ".jsonl":
        raise MisconfigurationException(
            f"data.source is {source!r}: choose calendar, or a file that ends "
            "in .jsonl."
        )
    if not path.is_file():
        raise MisconfigurationException(f"there is no file {source}.")
    chats = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        origin = f"{source}, line {number}"
        if line.strip():
            try:
                chats.append(Chat(read_messages(line), origin))
            except ValueError as error:
                raise MisconfigurationException(f"{origin}: {error}.") from None
    return chats


def read_messages(line: bytes) -> list[Message]:
    """The messages in a line of a JSON Lines file.

    Raises:
        ValueError: if it is not a conversation with an answer.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object {...}")
    messages = find_messages(row)
    if not isinstance(messages, list) or not all(map(is_message, messages)):
        raise ValueError("each message needs a role and a content, both text")
    if not any(each["role"] == "assistant" and each["content"] for each in messages):
        raise ValueError("there is no answer")
    return messages


def find_messages(row: dict[str, Any]) -> Any:
    if "messages" in row:
        return row["messages"]
    for prompt, response in PAIRS:
        if prompt in row and response in row:
            more = f"\n\n{row['input']}" if row.get("input") else ""
            return to_messages(row[prompt] + more, row[response])
    raise ValueError(
        "it needs prompt and response, instruction and output, or messages, "
        f"and has {', '.join(row) or 'nothing'}"
    )


def to_messages(prompt: str, response: str) -> list[Message]:
    roles = {"user": prompt, "assistant": response}
    return [{"role": role, "content": text} for role, text in roles.items()]


def is_message(message: Any) -> bool:
    keys = ("role", "content")
    return isinstance(message, dict) and all(
        isinstance(message.get(key), str) for key in keys
    )
