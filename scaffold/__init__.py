"""Generate a small PyTorch project, and update it from its templates later."""

__version__ = "0.1.0"
