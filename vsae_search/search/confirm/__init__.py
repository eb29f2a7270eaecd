"""The best configurations of a sweep, trained again with new seeds and measured on rows it never saw."""
