"""What an analysis is: one file in ``analysis/analyses/``, found by scanning that package.

The file defines a class with the members of :class:`Analysis` and a module constant ``ANALYSIS`` that holds one
instance of it. ``compute`` turns the material into numbers; ``render`` draws from those numbers, as they stand in
``analysis.json``, and from nothing else. An exception inside an analysis becomes a section that says why.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.material import Material


@dataclass(frozen=True)
class Definition:
    """What one number means.

    Attributes:
        key: Its name in ``analysis.json``, or the heading of its column in ``latents.csv``.
        unit: Its unit; ``"1"`` for a pure number.
        text: One sentence with the formula.
    """

    key: str
    unit: str
    text: str


@dataclass(frozen=True, eq=False)
class Found:
    """What an analysis has found.

    Attributes:
        numbers: For ``analysis.json``; numpy scalars and arrays are allowed in it.
        per_latent: Columns of ``latents.csv``, each with one value for every latent [F]; NaN, or -1 among integers,
            where there is none.
    """

    numbers: Mapping[str, Any]
    per_latent: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Analysis(Protocol):
    """One look at an autoencoder.

    Attributes:
        name: Short and unique, ``[a-z0-9_]+``; its anchor in the page and its key in ``analysis.json``.
        title: Heading.
        order: Position on the page; small numbers come first.
        definitions: What its numbers and columns mean.
    """

    name: str
    title: str
    order: int
    definitions: tuple[Definition, ...]

    def unavailable(self, material: Material) -> str | None:
        """Why there is nothing to find here, as a sentence; None when there is."""

    def compute(self, material: Material) -> Found:
        """The numbers; called only when ``unavailable`` returned None."""

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """Markup, top to bottom, from the numbers as JSON gives them back."""


def discover() -> tuple[Analysis, ...]:
    """Every analysis in ``analysis/analyses/``, by order and name.

    Raises:
        ValueError: Two analyses have the same name.
    """
    from vsae_search.analysis import analyses as package

    modules = [importlib.import_module(f"{package.__name__}.{entry.name}") for entry in _modules(package.__path__)]
    found: list[Analysis] = [module.ANALYSIS for module in modules]
    names = [analysis.name for analysis in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two analyses are called {', '.join(twice)}")
    return tuple(sorted(found, key=lambda analysis: (analysis.order, analysis.name)))


def _modules(path: Sequence[str]) -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(path))
