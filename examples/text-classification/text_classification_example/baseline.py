"""A baseline: naive Bayes on word counts."""

from typing import Any

from scaffold_runtime import Callback, LightningModule, Trainer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import f1_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline


class NaiveBayes(Callback):
    """Prints the macro-F1 of the model and the baseline."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "test")

    def compare(self, trainer: Trainer, stage: str) -> None:
        if f"{stage}_f1" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        held_out = getattr(data, stage)
        bayes = make_pipeline(CountVectorizer(token_pattern=r"\w+"), MultinomialNB())
        bayes.fit(data.train.texts, data.train.labels)
        predicted = bayes.predict(held_out.texts)
        baseline = f1_score(held_out.labels, predicted, average="macro")
        f1 = float(trainer.callback_metrics[f"{stage}_f1"])
        trainer.print(f"{stage}_f1 {f1:.3f}, naive Bayes {baseline:.3f}")
