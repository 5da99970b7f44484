"""Run on a cluster: who started the processes, as a plugin; checkpoints written in another way."""

import os
import signal

import torch

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.plugins import AsyncCheckpointIO, CheckpointIO
from scaffold_runtime.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)


class MyClusterEnvironment(ClusterEnvironment):

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def world_size(self) -> int:
        return int(os.environ.get("MY_WORLD_SIZE", 1))

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return int(os.environ.get("MY_RANK", 0))

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return int(os.environ.get("MY_LOCAL_RANK", 0))

    def node_rank(self) -> int:
        return int(os.environ.get("MY_NODE_RANK", 0))

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return 23456

    @staticmethod
    def detect() -> bool:
        return True


class CustomCheckpointIO(CheckpointIO):

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.save(checkpoint, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        return torch.load(path, weights_only=weights_only)

    def remove_checkpoint(self, path):
        os.remove(path)


for plugin in (
    MyClusterEnvironment(),
    LightningEnvironment(),
    SLURMEnvironment(auto_requeue=False),
    SLURMEnvironment(requeue_signal=signal.SIGHUP),
    AsyncCheckpointIO(),
    CustomCheckpointIO(),
    AsyncCheckpointIO(checkpoint_io=CustomCheckpointIO()),
):
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, limit_train_batches=2, plugins=[plugin])
    trainer.fit(BoringModel())
    best = trainer.checkpoint_callback.best_model_path
    assert os.path.exists(best)
    trainer.fit(BoringModel(), ckpt_path=best)
