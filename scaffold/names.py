"""Valid names of projects and their parts."""

import keyword
import re
import sys
from difflib import get_close_matches

from scaffold.errors import ScaffoldError

LONGEST = 64
SHAPE = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
WINDOWS = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10)}
BESIDE_THE_PACKAGE = {"build", "configs", "data", "dist", "notebooks", "runs", "tests", "train"}
IMPORTED = {
    *("black", "datasets", "deepspeed", "functorch", "jsonargparse", "lightning", "matplotlib"),
    *("mlflow", "numpy", "optuna", "pandas", "peft", "pil", "pytest", "pytorch_lightning", "rich"),
    *("ruff", "scaffold", "scaffold_runtime", "scipy", "sklearn", "tensorboard", "tensorflow"),
    *("tokenizers", "torch", "torchaudio", "torchgen", "torchmetrics", "torchtext"),
    *("torchvision", "tqdm", "transformers", "triton", "wandb", "yaml"),
}


def package_name(name: str) -> str:
    return name.lower().replace("-", "_")


def check_name(name: str, hint: str = "try `my-exp`") -> None:
    """Raise a ScaffoldError unless `name` can be a folder, a distribution and a package."""
    if problem := _problem(name):
        raise ScaffoldError(f"cannot name a project {_shown(name)}: {problem}; {hint}")


def check_part(name: str) -> None:
    """Raise a ScaffoldError unless `name` can be a module in a project, with a class of that name."""
    if problem := _misspelt(name) or (
        "it is a Python keyword" * keyword.iskeyword(class_name(name))
    ):
        raise ScaffoldError(f"{_shown(name)} cannot be used as a name: {problem}; try `my-own`")


def class_name(name: str) -> str:
    """`my-own` becomes `MyOwn`; `ResNet` stays."""
    return "".join(word[:1].upper() + word[1:] for word in re.split("[-_]", name))


def _shown(name: str) -> str:
    return repr(name if len(name) <= LONGEST else name[:20] + "...")


def _misspelt(name: str) -> str:
    package = package_name(name)
    if not name.strip():
        return "it is blank"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters, at most {LONGEST} are allowed"
    if "/" in name or "\\" in name:
        return "it is a path"
    if not SHAPE.fullmatch(name):
        return "use letters, digits, `-` and `_`, with a letter first and no dash last"
    if keyword.iskeyword(name) or keyword.iskeyword(package):
        return "it is a Python keyword"
    if package in WINDOWS:
        return "Windows reserves that name"
    return ""


def _problem(name: str) -> str:
    package = package_name(name)
    if problem := _misspelt(name):
        return problem
    if package in sys.stdlib_module_names:
        return f"it would shadow Python's own module `{package}`"
    if package in IMPORTED:
        return f"it would shadow the package `{package}`"
    if package in BESIDE_THE_PACKAGE:
        return f"the project has a `{package}` of its own"
    return ""


def pick(word: str, allowed: list[str], what: str) -> str:
    """`word` if it is allowed, else an error that suggests the closest allowed one."""
    if word in allowed:
        return word
    near = get_close_matches(word, allowed, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(allowed) or 'none'}"
    raise ScaffoldError(f"unknown {what} `{one_line(word)}`; {hint}")


def public(text: str) -> str:
    """The text without passwords and tokens in URLs, so that it can be stored and shown."""
    text = re.sub(r"(https?://)(?!git@)[^/?#\s:@]*(?::[^/\s]*)?@", r"\1", text)
    return re.sub(r"(://[^/\s:@]*):[^/\s]+@", r"\1@", text)


def one_line(text: str, longest: int = 200) -> str:
    """Free text as one printable line: newlines and control characters become spaces."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:longest].rstrip()
