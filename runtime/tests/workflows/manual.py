"""Step optimizers by hand, or change how they step."""

import torch

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel


class MyModel(BoringModel):

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        opt.zero_grad()
        loss = self.loss(self(batch))
        self.manual_backward(loss)
        self.clip_gradients(opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        opt.step()
        sch = self.lr_schedulers()
        if (batch_idx + 1) % 4 == 0:
            sch.step()
        if self.trainer.is_last_batch and (self.trainer.current_epoch + 1) % 2 == 0:
            sch.step()


t = L.Trainer(accelerator="cpu", max_epochs=2, limit_train_batches=8)
t.fit(MyModel())


class GAN(BoringModel):

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.g = torch.nn.Linear(32, 32)

    def training_step(self, batch, batch_idx):
        g_opt, d_opt = self.optimizers()
        with d_opt.toggle_model():
            d = self.layer(batch).square().mean()
            d_opt.zero_grad()
            self.manual_backward(d)
            d_opt.step()
        self.toggle_optimizer(g_opt)
        g = self.layer(self.g(batch)).square().mean()
        g_opt.zero_grad()
        self.manual_backward(g)
        g_opt.step()
        self.untoggle_optimizer(g_opt)
        self.log_dict({"g_loss": g, "d_loss": d}, prog_bar=True)

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.g.parameters(), 0.001),
            torch.optim.Adam(self.layer.parameters(), 0.001),
        )


L.Trainer(accelerator="cpu", max_epochs=1, precision="bf16-mixed").fit(GAN())


class LB(MyModel):

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()

        def closure():
            loss = self.loss(self(batch))
            opt.zero_grad()
            self.manual_backward(loss)
            return loss

        opt.step(closure=closure)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=4).fit(LB())


class W(BoringModel):

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        if self.trainer.global_step < 500:
            for pg in optimizer.param_groups:
                pg["lr"] = min(1.0, (self.trainer.global_step + 1) / 500.0) * 0.1

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=True)

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step() if metric is None else scheduler.step(metric)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(
            optimizer,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
        )


t3 = L.Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=0.3)
t3.fit(W())
