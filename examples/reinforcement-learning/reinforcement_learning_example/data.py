from scaffold_runtime import LightningDataModule

from reinforcement_learning_example.environments import Environments, make_environments
from reinforcement_learning_example.play import Rollouts


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
        make_environments(self.hparams.environment, 1, 0)  # checks that it exists

    def setup(self, stage: str) -> None:
        h = self.hparams
        rank = self.trainer.global_rank if self.trainer else 0  # each plays its own
        seed = h.seed + rank
        self.environments = make_environments(h.environment, h.environments, seed)

    def train_dataloader(self) -> Rollouts:
        assert self.trainer is not None
        h, policy = self.hparams, self.trainer.lightning_module
        sizes = h.steps, h.passes, h.rounds, h.batch_size
        return Rollouts(policy, self.environments, *sizes)

    def val_dataloader(self) -> list[list[Environments]]:
        h = self.hparams  # one loader, with one batch: fresh environments
        return [[make_environments(h.environment, 32, h.seed + 1000)]]

    test_dataloader = predict_dataloader = val_dataloader
