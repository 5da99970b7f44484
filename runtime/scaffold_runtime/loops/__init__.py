"""The loops: one function each, read from top to bottom."""
