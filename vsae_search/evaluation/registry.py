"""Finds the metrics: every ``Metric`` subclass in the modules of ``vsae_search.evaluation.metrics``."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from vsae_search.evaluation import metrics
from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from collections.abc import Mapping


def metric_classes() -> tuple[type[Metric], ...]:
    """Return every metric, ordered by module and then by place in the module.

    Raises:
        TypeError: Two metrics claim the same key, or one says nothing about itself.
    """
    found: list[type[Metric]] = []
    for entry in sorted(pkgutil.iter_modules(metrics.__path__), key=lambda entry: entry.name):
        module = import_module(f"{metrics.__name__}.{entry.name}")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Metric)
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
        ]
    _check(found)
    return tuple(found)


def metric_info() -> Mapping[str, MetricInfo]:
    """Return what every recorded number and array means, by key."""
    return {info.key: info for cls in metric_classes() for info in cls.infos}


def _check(classes: list[type[Metric]]) -> None:
    owner: dict[str, type[Metric]] = {}
    for cls in classes:
        if not (cls.__doc__ and cls.infos):
            raise TypeError(f"{cls.__module__}.{cls.__name__} needs a docstring and infos")
        for info in cls.infos:
            if info.key in owner:
                raise TypeError(
                    f"metric key {info.key!r} belongs to both {owner[info.key].__name__} and {cls.__name__}"
                )
            owner[info.key] = cls
