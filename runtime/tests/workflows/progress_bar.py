"""Customize the progress bar: choose, restyle, subclass, write one's own, switch off."""

import sys

import scaffold_runtime as L
from scaffold_runtime.callbacks import Callback, ProgressBar, RichProgressBar, TQDMProgressBar
from scaffold_runtime.callbacks.progress.rich_progress import RichProgressBarTheme
from scaffold_runtime.demos.boring_classes import BoringModel

progress_bar = RichProgressBar(
    theme=RichProgressBarTheme(
        description="green_yellow",
        progress_bar="green1",
        progress_bar_finished="green1",
        progress_bar_pulse="#6206E0",
        batch_progress="green_yellow",
        time="grey82",
        processing_speed="grey82",
        metrics="grey82",
        metrics_text_delimiter="\n",
        metrics_format=".3e",
    ),
    leave=True,
)
for bar in (TQDMProgressBar(refresh_rate=10), TQDMProgressBar(leave=True), progress_bar):
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=3, callbacks=bar)
    trainer.fit(BoringModel())
    assert trainer.progress_bar_callback is bar


class LitProgressBar(ProgressBar):

    def __init__(self):
        super().__init__()
        self.enable = True

    def disable(self):
        self.enable = False

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        percent = (batch_idx / self.total_train_batches) * 100
        sys.stdout.flush()
        sys.stdout.write(f"{percent:.01f} percent complete \r")


class NoVersion(TQDMProgressBar):

    def get_metrics(self, trainer, model):
        items = super().get_metrics(trainer, model)
        items.pop("v_num", None)
        return items


for bar in (LitProgressBar(), NoVersion()):
    L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=3, callbacks=[bar]).fit(
        BoringModel()
    )
off = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=3, enable_progress_bar=False)
off.fit(BoringModel())
assert off.progress_bar_callback is None and Callback
