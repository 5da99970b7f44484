"""Write callbacks with state."""

import scaffold_runtime as L
from scaffold_runtime.callbacks import Callback
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.utilities import grad_norm, rank_zero_only


class Counter(Callback):

    def __init__(self, what="epochs", verbose=True):
        self.what = what
        self.state = {"epochs": 0, "batches": 0}

    @property
    def state_key(self):
        return f"Counter[what={self.what}]"

    def on_train_epoch_end(self, *args, **kwargs):
        self.state["epochs"] += 1

    def on_train_batch_end(self, *args, **kwargs):
        self.state["batches"] += 1

    def load_state_dict(self, state_dict):
        self.state.update(state_dict)

    def state_dict(self):
        return self.state.copy()


class MyPrintingCallback(Callback):

    def on_train_start(self, trainer, pl_module):
        print("Training is starting")

    @rank_zero_only
    def on_train_end(self, trainer, pl_module):
        print("Training is ending")
        trainer.logger.log_metrics({"x": 1}, 1)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        pl_module.log_dict(grad_norm(pl_module.layer, norm_type=2))


c = Counter()
t = L.Trainer(
    accelerator="cpu", max_epochs=2, callbacks=[c, Counter("batches"), MyPrintingCallback()]
)
t.fit(BoringModel())
t.save_checkpoint("a.ckpt")
c2 = Counter()
t2 = L.Trainer(accelerator="cpu", max_epochs=3, callbacks=[c2, Counter("batches")])
t2.fit(BoringModel(), ckpt_path="a.ckpt")
