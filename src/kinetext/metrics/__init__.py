"""How good predictions are, in numbers."""
