"""Models that go between text and video."""

__version__ = "0.1.0"
