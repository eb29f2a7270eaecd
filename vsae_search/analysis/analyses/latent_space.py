"""The decoder rows as points: how many dimensions they fill, where they lie, whether they form clusters."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.clusters import cluster, principal_axes
from vsae_search.analysis.cosines import random_directions
from vsae_search.analysis.drawing import scatter
from vsae_search.evaluation.metrics.geom_cluster_entropy import cluster_entropy, null_cluster_entropy
from vsae_search.report.markup import definitions, paragraph
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.material import Material

_COORDINATES = 32
_DRAWN = 2000
_MIN_LATENTS = 4
_SHARES = (1, 2, 5, 10, 20, 50, 100)


class LatentSpace:
    """Principal components, UMAP where it is installed, and k-means clusters of the alive unit decoder rows."""

    name = "latent_space"
    title = "Latent space"
    order = 60
    definitions = (
        Definition("latents", "latents", "Alive latents: those that fired on the sweep's evaluation rows."),
        Definition("explained", "fraction of variance", "Variance of the directions on the leading components."),
        Definition("dimensions", "1", "Participation ratio of the variances: (sum v)^2 / sum v^2."),
        Definition(
            "clusters",
            "clusters",
            "k-means++ on up to 32 leading components; the number of clusters, out of 2, 3, 4, 6, 8, 12, 16 and 20, "
            "has the largest mean silhouette.",
        ),
        Definition("silhouette", "1", "Mean silhouette width of these clusters: 1 for compact ones, 0 for none."),
        Definition("null_silhouette", "1", "The same for as many random directions."),
        Definition("geom_cluster_entropy", "nats", "H_gauss - H of the directions; see docs/metrics.md."),
        Definition("null_geom_cluster_entropy", "nats", "The same for as many random directions."),
        Definition("map", "pca or umap", "What x and y are: leading components, or UMAP with the cosine metric."),
        Definition(
            "points", "latents", "Up to 2000 of them with place and cluster, drawn at random; all in latents.csv."
        ),
        Definition("x", "1", "Column: horizontal place on the map."),
        Definition("y", "1", "Column: vertical place on the map."),
        Definition("cluster", "cluster", "Column: its cluster; -1 for a dead latent."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Too few points."""
        if len(material.own.alive_A) < _MIN_LATENTS:
            return f"Fewer than {_MIN_LATENTS} latents are alive: they form no clusters."
        return None

    def compute(self, material: Material) -> Found:
        """Components, map and clusters; the same clusters of random directions beside them."""
        own, seed = material.own, material.seed
        points_AP, variance_D = _components(own.alive_AD)
        label_A, width = cluster(points_AP, seed)
        random_AD = random_directions(len(label_A), own.alive_AD.shape[1], seed)
        null_width = cluster(_components(random_AD)[0], seed)[1]
        place_A2, how = place(own.alive_AD, points_AP, seed)
        drawn = np.sort(np.random.default_rng([seed, 11]).permutation(len(label_A))[:_DRAWN])
        numbers = {
            "latents": len(label_A),
            "explained": {
                str(count): variance_D[:count].sum() / max(variance_D.sum(), 1e-300)
                for count in _SHARES
                if count <= len(variance_D)
            },
            "dimensions": variance_D.sum() ** 2 / max(np.square(variance_D).sum(), 1e-300),
            "clusters": {"number": label_A.max() + 1, "sizes": np.bincount(label_A)},
            "silhouette": width,
            "null_silhouette": null_width,
            "geom_cluster_entropy": cluster_entropy(own.alive_AD.astype(np.float64)),
            "null_geom_cluster_entropy": null_cluster_entropy(*own.alive_AD.shape),
            "map": how,
            "points": [
                {"latent": own.alive_A[a], "x": place_A2[a, 0], "y": place_A2[a, 1], "cluster": label_A[a]}
                for a in drawn
            ],
        }
        columns = {
            "x": _scattered(own.alive_A, place_A2[:, 0], own.d_sae),
            "y": _scattered(own.alive_A, place_A2[:, 1], own.d_sae),
            "cluster": _scattered(own.alive_A, label_A.astype(np.float64), own.d_sae, -1.0).astype(np.int64),
        }
        return Found(numbers, columns)

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """The map in the colours of the clusters."""
        found = numbers["clusters"]
        facts = definitions(
            [
                ("dimensions that the directions fill", number(numbers["dimensions"])),
                (
                    "variance on the leading components",
                    ", ".join(f"{count}: {number(share, 2)}" for count, share in numbers["explained"].items()),
                ),
                ("clusters", f"{found['number']} (sizes {', '.join(map(str, found['sizes']))})"),
                ("silhouette", f"{number(numbers['silhouette'])} (random: {number(numbers['null_silhouette'])})"),
                (
                    "cluster entropy, nats",
                    f"{number(numbers['geom_cluster_entropy'])} "
                    f"(random: {number(numbers['null_geom_cluster_entropy'])})",
                ),
            ]
        )
        axes = ("UMAP 1", "UMAP 2") if numbers["map"] == "umap" else ("component 1", "component 2")
        points = numbers["points"]
        chart = scatter(
            [(point["x"], point["y"]) for point in points],
            [point["cluster"] for point in points],
            [f"latent {point['latent']}, cluster {point['cluster']}" for point in points],
            x=axes[0],
            y=axes[1],
            alt=f"{len(points)} decoder rows on two axes, in the colours of {found['number']} clusters.",
        )
        text = "A silhouette that is not larger than that of random directions says that there are no clusters. "
        text += _MAPS[numbers["map"]]
        return facts, chart, paragraph(text, "note")


_MAPS = {
    "pca": "The axes are the two leading components; with the umap-learn package installed they are those of UMAP.",
    "umap": "The axes are those of UMAP, which keeps neighbourhoods and not distances.",
}


def place(unit_AD: NDArray[np.float32], points_AP: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], str]:
    """Return two coordinates of every direction [A, 2], and how they were made: ``umap``, or ``pca`` without it."""
    if importlib.util.find_spec("umap") is None:
        return np.pad(points_AP[:, :2], ((0, 0), (0, max(0, 2 - points_AP.shape[1])))), "pca"
    umap = importlib.import_module("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed makes it run on one core
        fitted = umap.UMAP(n_components=2, metric="cosine", random_state=seed).fit_transform(unit_AD)
    return np.asarray(fitted, dtype=np.float64), "umap"


def _components(unit_AD: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates on the leading principal axes [A, P], and all variances [D]."""
    mean_D, axes_DD, variance_D = principal_axes(unit_AD)
    axes_DP = axes_DD[:, :_COORDINATES]
    return unit_AD @ axes_DP - mean_D @ axes_DP, variance_D


def _scattered(
    index_A: NDArray[np.int64], value_A: NDArray[np.float64], size: int, missing: float = np.nan
) -> NDArray[np.float64]:
    values_F = np.full(size, missing)
    values_F[index_A] = value_A
    return values_F


ANALYSIS = LatentSpace()
