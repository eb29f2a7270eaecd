"""Toy experiments: many small toy models, each trained in a Ray task, with the records of a sweep."""
