"""A small catalog of architectures, and a minimal file that they accept."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator


class SmallConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    d_in: int = Field(gt=0)
    d_sae: int = Field(gt=0, description="Number of latents.")
    lr: float = Field(default=1e-3, gt=0, description="Learning rate.")


class ReluConfig(SmallConfig):
    """A rectified autoencoder."""

    l1: float = Field(default=1.0, ge=0, le=100, description="Weight of the L1 penalty.")
    resample: bool = Field(default=False, description="Whether dead latents are resampled.")
    norm: Literal["unit", "free"] = Field(default="unit", description="Norm of the decoder rows.")


class TopKConfig(SmallConfig):
    """An autoencoder that keeps the k largest latents."""

    k: int = Field(default=4, gt=0, description="Number of latents that fire.")
    aux_k: int | None = Field(default=None, gt=0, description="Number of revived latents.")

    @model_validator(mode="after")
    def _fits(self) -> TopKConfig:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self


@pytest.fixture
def catalog() -> dict[str, Any]:
    return {"relu": ReluConfig, "topk": TopKConfig}


GOOD = """\
name: good
subject:
  type: toy_model
  features: {count: 8, probability: 0.1}
  d_hidden: 4
shared:
  d_sae: 8
architectures:
  relu:
    l1: {log: [0.1, 10]}
  topk:
    k: {choice: [1, 2]}
"""


@pytest.fixture
def good_text() -> str:
    return GOOD
