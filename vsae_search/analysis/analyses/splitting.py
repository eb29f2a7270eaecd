"""What becomes of the latents of a narrow autoencoder in a wider one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.cosines import nearest, random_directions
from vsae_search.analysis.drawing import histogram
from vsae_search.report.markup import Column, bullets, paragraph, table
from vsae_search.report.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from vsae_search.analysis.material import Dictionary, Material

MIN_COSINE = 0.5
"""A latent of the wide autoencoder is a child of the nearest narrow latent from this cosine on."""
_LISTED, _CHILDREN = 20, 12
_NULL_SAMPLE = 1024


class Splitting:
    """Children of each latent of the narrower autoencoder: the wide latents that lie nearest to it."""

    name = "splitting"
    title = "Feature splitting"
    order = 80
    definitions = (
        Definition("narrow, wide", "1", "The two autoencoders, by their number of latents."),
        Definition(
            "children",
            "latents",
            "Children of a narrow latent: alive latents of the wide one whose nearest alive narrow latent it is, with "
            "a cosine of at least 0.5.",
        ),
        Definition("childless_fraction", "fraction of narrow latents", "Share without a child."),
        Definition("split_fraction", "fraction of narrow latents", "Share with two children or more."),
        Definition("new_fraction", "fraction of wide latents", "Share that is a child of no narrow latent."),
        Definition("null_new_fraction", "fraction of directions", "The same for random directions."),
        Definition("best_child", "1", "Mean over narrow latents of the largest cosine with a wide one."),
        Definition("histogram", "latents", "Narrow latents with 0, 1, 2, ... children."),
        Definition("families", "latents", "The 20 narrow latents with most children, with up to 12 of them."),
        Definition("parent_1, children_1", "latent", "Column: parent of the latent (-1: none), or number of children."),
    )

    def unavailable(self, material: Material) -> str | None:
        """Nothing of another width to compare with."""
        if not _wider(material):
            return "No autoencoder of another width was given to compare with; --against UID names one."
        if not len(material.own.alive_A) or not all(len(other.alive_A) for _, other in _wider(material)):
            return "All latents of one of the autoencoders are dead."
        return None

    def compute(self, material: Material) -> Found:
        """Find the parents of each pair of autoencoders."""
        absolute, own = material.reading.codes.signed, material.own
        compared: list[dict[str, Any]] = []
        columns: dict[str, NDArray[Any]] = {}
        for rank, other in _wider(material):
            narrow, wide = sorted((own, other), key=lambda dictionary: dictionary.d_sae)
            parent_B, numbers = families(narrow, wide, absolute=absolute, seed=material.seed)
            compared.append(numbers)
            if own is wide:
                column = np.full(own.d_sae, -1, dtype=np.int64)
                column[wide.alive_A] = np.where(parent_B >= 0, narrow.alive_A[parent_B], -1)
                columns[f"parent_{rank}"] = column
            else:
                column = np.zeros(own.d_sae, dtype=np.int64)
                column[narrow.alive_A] = np.bincount(parent_B[parent_B >= 0], minlength=len(narrow.alive_A))
                columns[f"children_{rank}"] = column
        return Found({"others": compared}, columns)

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """Shares, a histogram and the largest families."""
        parts: list[Markup] = []
        for found in numbers["others"]:
            parts += _drawn(found)
        parts.append(paragraph(f"A child has a cosine of at least {MIN_COSINE} with its parent.", "note"))
        return parts


def families(
    narrow: Dictionary, wide: Dictionary, *, absolute: bool, seed: int
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the parent of each alive wide latent (its place among the alive narrow ones; -1 for none), and numbers."""
    index_BK, cosine_BK = nearest(wide.alive_AD, narrow.alive_AD, absolute=absolute)
    cosine_B = cosine_BK[:, 0]
    parent_B = np.where(cosine_B >= MIN_COSINE, index_BK[:, 0], -1)
    count_A = np.bincount(parent_B[parent_B >= 0], minlength=len(narrow.alive_A))
    random_SD = random_directions(_NULL_SAMPLE, wide.unit_FD.shape[1], seed)
    null_S = nearest(random_SD, narrow.alive_AD, absolute=absolute)[1][:, 0]
    largest = np.argsort(-count_A, kind="stable")[:_LISTED]
    numbers = {
        "narrow": {"name": narrow.name, "latents": len(narrow.alive_A)},
        "wide": {"name": wide.name, "latents": len(wide.alive_A)},
        "childless_fraction": np.mean(count_A == 0),
        "split_fraction": np.mean(count_A >= 2),
        "new_fraction": np.mean(parent_B < 0),
        "null_new_fraction": np.mean(null_S < MIN_COSINE),
        "best_child": nearest(narrow.alive_AD, wide.alive_AD, absolute=absolute)[1].mean(),
        "histogram": np.bincount(count_A),
        "families": [_family(narrow, wide, int(a), parent_B, cosine_B) for a in largest if count_A[a]],
    }
    return parent_B, numbers


def _family(
    narrow: Dictionary, wide: Dictionary, parent: int, parent_B: NDArray[np.int64], cosine_B: NDArray[np.float32]
) -> dict[str, Any]:
    members = np.flatnonzero(parent_B == parent)
    members = members[np.argsort(-cosine_B[members], kind="stable")]
    return {
        "parent": narrow.alive_A[parent],
        "count": len(members),
        "children": [{"latent": wide.alive_A[b], "cosine": cosine_B[b]} for b in members[:_CHILDREN]],
    }


def _wider(material: Material) -> list[tuple[int, Dictionary]]:
    """The others with another number of latents, with their ranks."""
    ranked = enumerate(material.others, start=1)
    return [(rank, other) for rank, other in ranked if other.d_sae != material.own.d_sae]


def _drawn(found: Mapping[str, Any]) -> Sequence[Markup]:
    narrow, wide = found["narrow"], found["wide"]
    counts = found["histogram"]
    facts = bullets(
        [
            f"{narrow['name']} has {narrow['latents']} alive latents, {wide['name']} has {wide['latents']}.",
            f"{percent(found['split_fraction'])} of the narrow latents have two children or more, "
            f"{percent(found['childless_fraction'])} have none; the nearest wide latent has a mean cosine of "
            f"{number(found['best_child'])}.",
            f"{percent(found['new_fraction'])} of the wide latents have no parent (of random directions "
            f"{percent(found['null_new_fraction'])}).",
        ]
    )
    chart = histogram(
        [index - 0.5 for index in range(len(counts) + 1)],
        counts,
        x="children of a narrow latent",
        y="narrow latents",
        alt=f"Narrow latents by their number of children: {', '.join(map(str, counts))}.",
    )
    rows = [
        [
            str(family["parent"]),
            str(family["count"]),
            ", ".join(f"{child['latent']} ({number(child['cosine'], 2)})" for child in family["children"]),
        ]
        for family in found["families"]
    ]
    columns = [Column(f"latent of {narrow['name']}"), Column("children", numeric=True), Column(f"in {wide['name']}")]
    return facts, chart, table(columns, rows, caption="Largest families, with cosines")


ANALYSIS = Splitting()
