"""The reference point of a sweep: from the search space, or measured when the sweep starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from vsae_search.errors import UserInputError
from vsae_search.saes import config_classes
from vsae_search.search.records import ReferenceRecord
from vsae_search.space import ChoiceRange, ConstantRange

if TYPE_CHECKING:
    from vsae_search.space import Range, SearchSpace
    from vsae_search.subjects import Baseline


def reference_point(space: SearchSpace, baseline: Baseline) -> ReferenceRecord:
    """The corner of the objective plane: what the file says, else what an SAE can do worst without being useless.

    By default that is every latent of the widest SAE firing, or the end of the range of L0 that is asked for, and the
    loss of replacing activations by their mean.

    Raises:
        UserInputError: Replacing the activations by their mean costs nothing, so there is nothing to trade off.
    """
    given = space.objectives.reference
    l0_range = space.objectives.l0_range
    if given is not None:
        return ReferenceRecord(l0=given.l0, delta_ce=given.delta_ce, source="given", l0_range=l0_range)
    cost = float(baseline.mean_S.mean() - baseline.clean_S.mean())
    if not cost > 0:
        raise UserInputError(
            f"replacing the activations by their mean changes the subject's loss by {cost:g}, so it does not depend "
            "on them and no trade-off can be measured",
            "check the subject, or set objectives.reference",
        )
    largest = _largest_d_sae(space) if l0_range is None else l0_range[1]
    return ReferenceRecord(l0=largest, delta_ce=cost, source="measured", l0_range=l0_range)


def _largest_d_sae(space: SearchSpace) -> float:
    catalog = config_classes()
    widths: list[float] = []
    for name in space.architectures:
        searched = space.ranges(name).get("d_sae")
        default = catalog[name].model_fields["d_sae"].default
        if searched is not None:
            widths.append(_largest(searched))
        elif default is not PydanticUndefined:
            widths.append(default)
    assert widths, "a loaded search space gives d_sae wherever it has no default"
    return float(max(widths))


def _largest(searched: Range) -> float:
    if isinstance(searched, ConstantRange):
        values: tuple[Any, ...] = (searched.value,)
    elif isinstance(searched, ChoiceRange):
        values = searched.choices
    else:
        values = (searched.high,)
    return float(max(values))
