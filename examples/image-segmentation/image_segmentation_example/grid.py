"""A picture of true and predicted masks."""

from typing import Any

import torch
from scaffold_runtime import Callback, LightningModule, Trainer

from image_segmentation_example.pictures import save_picture


class MaskGrid(Callback):
    """Rows of images, true masks and predicted masks, of the validation set."""

    def __init__(self, count: int = 8) -> None:
        self.count = count

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from matplotlib.figure import Figure  # imported here, since that takes long

        data: Any = trainer.datamodule
        count = min(self.count, len(data.val))
        images, masks = map(
            torch.stack, zip(*(data.val[i] for i in range(count)), strict=True)
        )
        with torch.no_grad():
            predicted = pl_module.eval()(images.to(pl_module.device)).cpu() > 0
        figure = Figure(figsize=(count, 3), layout="constrained")
        figure.set_facecolor("lightgray")
        grid = figure.subplots(3, count, squeeze=False)
        for row, pictures in zip(grid, (images, masks, predicted), strict=True):
            for axes, picture in zip(row, pictures, strict=True):
                axes.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
                axes.set_axis_off()
        save_picture(trainer, figure, "masks")
