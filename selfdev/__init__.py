"""selfdev: search for model-merging algorithms that a language model writes."""

__version__ = "0.1.0"
