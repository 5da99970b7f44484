"""Stop early."""

from scaffold_runtime import Trainer
from scaffold_runtime.callbacks.early_stopping import EarlyStopping
from scaffold_runtime.demos.boring_classes import BoringModel


class M(BoringModel):

    def validation_step(self, b, i):
        self.log("val_accuracy", 0.5)


early_stop_callback = EarlyStopping(
    monitor="val_accuracy", min_delta=0.0, patience=3, verbose=False, mode="max"
)
t = Trainer(
    accelerator="cpu",
    callbacks=[early_stop_callback],
    max_epochs=20,
    limit_train_batches=2,
    limit_val_batches=2,
)
t.fit(M())


class MyEarlyStopping(EarlyStopping):

    def on_validation_end(self, trainer, pl_module):
        pass

    def on_train_end(self, trainer, pl_module):
        self._run_early_stopping_check(trainer)


class StopBatch(BoringModel):

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 1 else None


t2 = Trainer(accelerator="cpu", max_epochs=2)
t2.fit(StopBatch())
