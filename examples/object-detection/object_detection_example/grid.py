"""A picture of true and predicted boxes."""

from typing import Any

import torch
from scaffold_runtime import Callback, LightningModule, Trainer
from torch import Tensor

from object_detection_example.boxes import find
from object_detection_example.pictures import save_picture


class BoxGrid(Callback):
    """Images with true boxes (top), and with those of confidence `sure` (bottom)."""

    def __init__(self, count: int = 8, sure: float = 0.3) -> None:
        self.count, self.sure = count, sure

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from matplotlib.figure import Figure  # imported here, since that takes long

        data: Any = trainer.datamodule
        count = min(self.count, len(data.val))
        images, objects = map(
            torch.stack, zip(*(data.val[i] for i in range(count)), strict=True)
        )
        with torch.no_grad():
            found = find(*pl_module.eval()(images.to(pl_module.device))).cpu()
        figure = Figure(figsize=(1.6 * count, 3.4), layout="constrained")
        grid = figure.subplots(2, count, squeeze=False)
        for column, image in enumerate(images):
            sure = found[column][found[column, :, 5] >= self.sure]
            true = objects[column][objects[column, :, 0] >= 0]
            for axes, boxes in zip(grid[:, column], (true, sure), strict=True):
                axes.imshow(image.permute(1, 2, 0).numpy())
                axes.set_axis_off()
                draw(axes, boxes, data.names)
        save_picture(trainer, figure, "boxes")


def draw(axes: Any, boxes: Tensor, names: tuple[str, ...]) -> None:
    from matplotlib.patches import Rectangle

    for label, left, top, right, bottom in boxes[:, :5].tolist():
        corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="yellow"))
        axes.text(left, top - 2, names[int(label)], color="yellow", fontsize=8)
