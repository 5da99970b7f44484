"""The network: a transformers model, with LoRA adapters if asked for."""

import warnings
from pathlib import Path
from typing import Any

import torch
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.utilities.rank_zero import rank_zero_only
from torch import nn

# For tokenizers without a chat template; exported with the model.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}### {{ message.role }}\n"
    "{{ message.content }}{{ eos_token if message.role == 'assistant' }}\n\n"
    "{% endfor %}{{ '### assistant\n' if add_generation_prompt }}"
)


def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = found(AutoTokenizer, name)
    tokenizer.chat_template = tokenizer.chat_template or PLAIN
    return tokenizer


def load_network(name: str, rank: int, recompute: bool, tokenizer: Any) -> Any:
    """Trained weights have 32 bits, frozen ones keep the dtype they are stored in."""
    from transformers import AutoModelForCausalLM

    kept = "auto" if rank else torch.float32
    network = found(AutoModelForCausalLM, name, dtype=kept).train()
    end_answers(network.generation_config, tokenizer)
    if recompute:  # the name in transformers 5, or the older one
        older = network.gradient_checkpointing_enable
        getattr(network, "activation_checkpointing_enable", older)()
    return add_adapters(network, rank) if rank else network


def found(kind: Any, name: str, **options: Any) -> Any:
    from transformers.utils.logging import disable_progress_bar

    here = Path(name).is_dir()
    if here or rank_zero_only.rank:  # what is downloaded shows one
        disable_progress_bar()
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        what = "a folder that transformers cannot load"
        if not here:
            what = "no folder here, and not to be had from the Hugging Face hub"
        raise MisconfigurationException(
            f"model.name is {name!r}: {what} ({why})"
        ) from None


def end_answers(generation: Any, tokenizer: Any) -> None:
    """Also stop generation at the token that ends answers in the chat template."""
    said = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    text = tokenizer.apply_chat_template(said, tokenize=False)
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
    with warnings.catch_warnings():  # of old names, and of what it sets right itself
        warnings.simplefilter("ignore")
        return get_peft_model(network, config)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    named = module.named_parameters()
    return {name: weight for name, weight in named if weight.requires_grad}


def usual_lr(network: Any, rank: int) -> float:
    """Small models tolerate higher learning rates; adapters ten times higher ones."""
    width = network.config.get_text_config().hidden_size
    return (0.8 if rank else 0.08) / width
