from scaffold_runtime import LightningDataModule

from reinforcement_learning_example.environments import Environments, make_environments
from reinforcement_learning_example.play import Played


class CartPoleDataModule(LightningDataModule):
    def __init__(
        self,
        environment: str = "cartpole",
        environments: int = 16,
        steps: int = 64,
        passes: int = 4,
        batch_size: int = 256,
        rounds: int = 5,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def prepare_data(self) -> None:
        make_environments(self.hparams.environment, 1, 0)  # is it installed?

    def setup(self, stage: str) -> None:
        h = self.hparams
        shift = self.trainer.global_rank if self.trainer else 0
        self.played_in = make_environments(
            h.environment, h.environments, h.seed + shift
        )

    def train_dataloader(self) -> Played:
        assert self.trainer is not None
        h, policy = self.hparams, self.trainer.lightning_module
        return Played(policy, self.played_in, h.steps, h.passes, h.rounds, h.batch_size)

    def val_dataloader(self) -> list[list[Environments]]:
        h = self.hparams  # one loader with one batch: new environments
        return [[make_environments(h.environment, 32, h.seed + 1000)]]

    test_dataloader = predict_dataloader = val_dataloader
