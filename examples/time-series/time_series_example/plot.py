"""A picture of the forecast and the true values."""

from typing import Any

import torch
from scaffold_runtime import Callback, LightningModule, Trainer

from time_series_example.pictures import save_picture


class ForecastPlot(Callback):
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from matplotlib.figure import Figure  # imported here, since that takes long

        data: Any = trainer.datamodule
        known, future = data.val[-1]
        with torch.no_grad():
            forecast = pl_module.eval()(known[None].to(pl_module.device))[0].cpu()
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        times = range(len(known), len(known) + len(future))
        axes.plot(known.numpy(), color="gray", label="input")
        axes.plot(times, future.numpy(), color="black", label="actual")
        axes.plot(times, forecast.numpy(), "--", color="tab:red", label="forecast")
        axes.legend()
        save_picture(trainer, figure, "forecast")
