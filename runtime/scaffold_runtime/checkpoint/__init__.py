"""Checkpoints: what is in them, how they get to disk and back."""
