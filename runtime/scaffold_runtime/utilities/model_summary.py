"""Lightning's place for summaries of a model."""

from scaffold_runtime.callbacks.model_summary import ModelSummary, summarize

__all__ = ["ModelSummary", "summarize"]
