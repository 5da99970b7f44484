"""Lightning's import path of model summaries: here `ModelSummary(model, max_depth)` is not the callback."""

from scaffold_runtime.callbacks.model_summary import summarize
from scaffold_runtime.callbacks.model_summary import summarize as ModelSummary

__all__ = ["ModelSummary", "summarize"]
