"""Metrics of one trained autoencoder on fixed rows: sparsity, reconstruction, splice, recovery, geometry."""

from vsae_search.evaluation.base import Batch, Context, Metric, MetricInfo
from vsae_search.evaluation.evaluate import Evaluation, evaluate
from vsae_search.evaluation.registry import metric_classes, metric_info
from vsae_search.evaluation.summary import Summary

__all__ = [
    "Batch",
    "Context",
    "Evaluation",
    "Metric",
    "MetricInfo",
    "Summary",
    "evaluate",
    "metric_classes",
    "metric_info",
]
