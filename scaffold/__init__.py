"""Write a small PyTorch project, and keep it connected to its templates."""

__version__ = "0.1.0"
