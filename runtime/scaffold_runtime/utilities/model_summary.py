"""Lightning's place for summaries of a model: `ModelSummary(model, max_depth)` is not the callback there."""

from scaffold_runtime.callbacks.model_summary import summarize
from scaffold_runtime.callbacks.model_summary import summarize as ModelSummary

__all__ = ["ModelSummary", "summarize"]
