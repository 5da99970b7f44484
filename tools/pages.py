"""Generate pages of docs/ from the code: run by `make docs`; a test fails if they are not up to date.

docs/hooks.md lists the hooks; docs/api/*.md name what each public module exports.
"""

from __future__ import annotations

import importlib
import sys
from inspect import signature
from pathlib import Path

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.hooks import Callback, hook_names
from scaffold_runtime.module import LightningModule

DOCS = Path(__file__).parent.parent / "docs"
# page: title, and the modules whose `__all__` it documents, or single objects
REFERENCE = {
    "trainer": (
        "Trainer",
        ["scaffold_runtime.trainer.trainer.Trainer", "scaffold_runtime.trainer.states"],
    ),
    "module": (
        "LightningModule",
        [
            "scaffold_runtime.module.LightningModule",
            "scaffold_runtime.optim.LightningOptimizer",
            "scaffold_runtime.hparams.WithHyperparameters.load_from_checkpoint",
        ],
    ),
    "data": (
        "LightningDataModule",
        ["scaffold_runtime.data.LightningDataModule", "scaffold_runtime.combined.CombinedLoader"],
    ),
    "callbacks": (
        "Callbacks",
        [
            "scaffold_runtime.callbacks",
            "scaffold_runtime.callbacks.progress.rich_progress.RichProgressBarTheme",
            "scaffold_runtime.report.RunReport",
        ],
    ),
    "loggers": ("Loggers", ["scaffold_runtime.loggers"]),
    "tools": ("Profilers and tuner", ["scaffold_runtime.profilers", "scaffold_runtime.tuner"]),
    "helpers": (
        "Helpers",
        [
            "scaffold_runtime.utilities",
            "scaffold_runtime.ranks.WarningCache",
            "scaffold_runtime.ranks.rank_prefixed_message",
            "scaffold_runtime.utilities.seed",
            "scaffold_runtime.utilities.types",
            "scaffold_runtime.callbacks.model_summary.summarize",
            "scaffold_runtime.testing.check_resume",
            "scaffold_runtime.demos.boring_classes",
        ],
    ),
    "cli": ("Command line", ["scaffold_runtime.cli"]),
    "devices": (
        "Devices and precision",
        [
            "scaffold_runtime.strategies",
            "scaffold_runtime.accelerators",
            "scaffold_runtime.precision",
            "scaffold_runtime.plugins",
            "scaffold_runtime.plugins.environments",
        ],
    ),
    "errors": ("Errors", ["scaffold_runtime.errors"]),
}


def hooks_page() -> str:
    lines = [
        "# Hooks, in order",
        "",
        "Every hook of `Callback`, `LightningModule` and `LightningDataModule`, in the order in which a fit first",
        "calls them; those of evaluation and prediction follow. The second column leaves out the `trainer` and",
        "`pl_module` that callbacks get first. Each hook runs for callbacks, then the module, then callbacks that",
        "save checkpoints.",
        "",
        "| hook | arguments | implemented by |",
        "|---|---|---|",
    ]
    bases = {"datamodule": LightningDataModule, "callback": Callback, "module": LightningModule}
    for name in hooks_in_order():
        owners = [owner for owner, base in bases.items() if name in hook_names(base)]
        base = bases[owners[-1]]
        leading = 3 if base is Callback else 1  # self, trainer, pl_module
        taken = [*signature(getattr(base, name)).parameters][leading:]
        arguments = ", ".join(f"`{argument}`" for argument in taken)
        lines.append(f"| `{name}` | {arguments} | {', '.join(owners)} |")
    return "\n".join(lines) + "\n"


def hooks_in_order() -> list[str]:
    """The hooks of callbacks; those of modules only are inserted where LightningModule has them."""
    names, modules = [*hook_names(Callback)], hook_names(LightningModule)
    for place, name in reversed([*enumerate(modules)]):
        if name not in names:
            names.insert(names.index(modules[place + 1]), name)
    return names


def reference_page(title: str, sources: list[str]) -> str:
    parts = [f"# {title}"]
    for source in sources:
        parts += [f"::: {path}" for path in public_objects(source)]
    return "\n\n".join(parts) + "\n"


def public_objects(source: str) -> list[str]:
    """Full names of the objects that a module exports; `source` itself if it is an object."""
    try:
        module = importlib.import_module(source)
    except ModuleNotFoundError:
        return [source]
    named = [getattr(module, name) for name in exported(module)]
    own = "scaffold_runtime"  # without type aliases
    objects = [t for t in named if getattr(t, "__module__", "").startswith(own)]
    return [f"{thing.__module__}.{thing.__qualname__}" for thing in objects]


def exported(module: object) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is not None:
        return sorted(names)
    own = vars(module)["__name__"]
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == own
    ]


def pages() -> dict[Path, str]:
    found = {DOCS / "hooks.md": hooks_page()}
    for name, (title, sources) in REFERENCE.items():
        found[DOCS / "api" / f"{name}.md"] = reference_page(title, sources)
    return found


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {len(pages())} pages\n")


if __name__ == "__main__":
    main()
