"""How well the reconstruction agrees with the activation, and on which rows it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.drawing import lines
from vsae_search.evaluation.metrics.reconstruction import Reconstruction as Metric
from vsae_search.report.markup import Column, definitions, details, paragraph, table
from vsae_search.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from vsae_search.analysis.material import Material

_SHOWN = ("fvu", "nmse", "cosine", "norm_ratio", "relative_bias")
_RECORDED = ("delta_ce", "ce_score_zero", "ce_score_mean", "kl")
_TITLES = {
    "norm": "Rows by their norm: tenths, from the shortest",
    "position": "Rows by their place in the sequence: eighths, from its start",
}
_FROM = {"norm": ", from the shortest", "position": ", from its start"}
_AXES = {"norm": "tenth of the rows by norm", "position": "eighth of the sequence"}


class ReconstructionQuality:
    """FVU, cosine and shrinkage of all rows, of tenths by norm, and of eighths of the sequence."""

    name = "reconstruction"
    title = "Reconstruction quality"
    order = 20
    definitions = (
        *(Definition(info.key, info.unit, info.definition) for info in Metric.infos),
        Definition("groups", "1", "The same numbers for each group of rows; FVU is centred on the group's own mean."),
        Definition(
            "recorded",
            "as in docs/metrics.md",
            "What the sweep measured by splicing on its evaluation rows: delta-CE, its scores against zero and mean "
            "ablation, and KL.",
        ),
    )

    def unavailable(self, material: Material) -> str | None:
        """Always there."""
        del material
        return None

    def compute(self, material: Material) -> Found:
        """Pass on what the reading has summed, and what the sweep recorded."""
        recorded = material.request.trained.trial.metrics
        return Found(
            {
                **material.reading.overall,
                "groups": {name: list(groups) for name, groups in material.reading.groups.items()},
                "recorded": {key: recorded[key] for key in _RECORDED if key in recorded},
                "loss": {"name": material.subject.loss_name, "unit": material.subject.loss_unit},
            }
        )

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """The numbers, and a chart and a table for each grouping."""
        loss = numbers["loss"]
        spliced = [
            (f"{key} in the sweep", f"{number(value)} {loss['unit'] if key == 'delta_ce' else ''}")
            for key, value in numbers["recorded"].items()
        ]
        parts: list[Markup] = [definitions([*((key, number(numbers.get(key))) for key in _SHOWN), *spliced])]
        for name, groups in numbers["groups"].items():
            parts += _grouped(name, groups)
        parts.append(
            paragraph(
                "FVU is the unexplained share of the variance, NMSE that of the squared norm. A norm ratio below 1 "
                "says that reconstructions are too short.",
                "note",
            )
        )
        return parts


def _grouped(name: str, groups: Sequence[Mapping[str, float]]) -> Sequence[Markup]:
    """A chart of NMSE, cosine and norm ratio, and a table of all numbers; groups without rows are left out."""
    filled = [(index + 1, group) for index, group in enumerate(groups) if "nmse" in group]
    if len(filled) < 2:
        return ()
    places = [float(index) for index, _ in filled]
    series = [
        (title, places, [group[key] for _, group in filled])
        for key, title in (("nmse", "NMSE"), ("cosine", "cosine"), ("norm_ratio", "norm ratio"))
    ]
    first, last = filled[0][1], filled[-1][1]
    alt = f"{_TITLES[name]}. NMSE goes from {number(first['nmse'])} to {number(last['nmse'])}."
    rows = [[str(index), *(number(group.get(key)) for key in _SHOWN)] for index, group in filled]
    columns = [Column(_AXES[name]), *(Column(key, numeric=True) for key in _SHOWN)]
    return (
        lines(series, x=f"{_AXES[name]}{_FROM[name]}", y="", alt=alt),
        details("the numbers", table(columns, rows, caption=_TITLES[name])),
    )


ANALYSIS = ReconstructionQuality()
