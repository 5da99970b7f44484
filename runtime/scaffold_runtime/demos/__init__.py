"""Small modules to try things with."""
