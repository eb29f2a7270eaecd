"""Find the best sparse autoencoder for a model: a distributed, multi-objective search."""

__version__ = "0.1.0"
