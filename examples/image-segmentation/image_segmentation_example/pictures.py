"""Pictures of a run: PNG files in the run folder, and figures in TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING

from scaffold_runtime import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_picture(trainer: Trainer, figure: "Figure", name: str) -> None:
    """Write `pictures/<name>.png` into the run folder, on rank 0; needs a logger."""
    if not trainer.is_global_zero or not trainer.loggers:
        return
    folder = Path(trainer.log_dir, "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=100)
    for logger in trainer.loggers:
        if hasattr(logger.experiment, "add_figure"):
            logger.experiment.add_figure(name, figure, trainer.global_step)
