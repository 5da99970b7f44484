"""The network: a transformers model, optionally with LoRA adapters."""

import warnings
from pathlib import Path
from typing import Any

import torch
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.utilities.rank_zero import rank_zero_only
from torch import nn

# The chat template of tokenizers without one; it is exported with the model.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}### {{ message.role }}\n"
    "{{ message.content }}{{ eos_token if message.role == 'assistant' }}\n\n"
    "{% endfor %}{{ '### assistant\n' if add_generation_prompt }}"
)


def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, name)
    tokenizer.chat_template = tokenizer.chat_template or PLAIN
    return tokenizer


def load_network(name: str, rank: int, recompute: bool, tokenizer: Any) -> Any:
    """Trained weights are float32, frozen ones keep the dtype they are stored in."""
    from transformers import AutoModelForCausalLM

    dtype = "auto" if rank else torch.float32
    network = from_pretrained(AutoModelForCausalLM, name, dtype=dtype).train()
    end_answers(network.generation_config, tokenizer)
    if recompute:  # renamed in transformers 5
        older = network.gradient_checkpointing_enable
        getattr(network, "activation_checkpointing_enable", older)()
    return add_adapters(network, rank) if rank else network


def from_pretrained(kind: Any, name: str, **options: Any) -> Any:
    from transformers.utils.logging import disable_progress_bar

    local = Path(name).is_dir()
    if local or rank_zero_only.rank:  # only a download shows its progress, on rank 0
        disable_progress_bar()
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        what = "a folder that transformers cannot load"
        if not local:
            what = "no local folder, and not available from the Hugging Face hub"
        raise MisconfigurationException(
            f"model.name is {name!r}: {what} ({why})"
        ) from None


def end_answers(generation: Any, tokenizer: Any) -> None:
    """Also stop generation at the token that ends answers in the chat template."""
    chat = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    special = tokenizer.added_tokens_decoder
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    known = generation.eos_token_id
    ends = {*(known if isinstance(known, list) else [known]), tokenizer.eos_token_id}
    ends.add(next((token for token in reversed(tokens) if token in special), None))
    generation.eos_token_id = sorted(ends - {None})
    generation.pad_token_id = tokenizer.pad_token_id or generation.eos_token_id[0]


def add_adapters(network: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # deprecations, and options that peft corrects
        warnings.simplefilter("ignore")
        return get_peft_model(network, config)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, without frozen ones."""
    named = module.named_parameters()
    return {name: weight for name, weight in named if weight.requires_grad}


def default_lr(network: Any, rank: int) -> float:
    """Narrow models tolerate higher learning rates, adapters ten times higher ones."""
    width = network.config.get_text_config().hidden_size
    return (0.8 if rank else 0.08) / width
