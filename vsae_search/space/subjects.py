"""What is explained: the subject section of a search-space file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vsae_search.space.features import FeatureSpec
from vsae_search.space.strict import Strict, refuse


class ToyModelSubject(Strict):
    """A toy model of superposition, trained once per sweep; its hidden activations are explained."""

    type: Literal["toy_model"] = "toy_model"
    """Chooses this kind of subject."""
    features: FeatureSpec
    """The sparse features that the toy model has to represent."""
    d_hidden: int = Field(ge=1, le=16_384)
    """Width of the hidden layer, which is the width of the activations that are explained."""
    model: Literal["basic", "neuron"] = "basic"
    """Form of the hidden layer: basic is h = W x, neuron is h = ReLU(W x), which has a privileged basis."""
    steps: int = Field(default=6000, ge=1)
    """Number of optimiser steps with which the toy model is trained."""
    batch_size: int = Field(default=1024, ge=1)
    """Number of samples in each of these steps."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of the toy model; it decays to zero along a cosine."""
    seed: int = Field(default=0, ge=0)
    """Seed of the toy model's initialisation and of all the data that is drawn from it."""

    @property
    def d_in(self) -> int:
        """Width of the activations that are explained."""
        return self.d_hidden


class DirectionsSubject(Strict):
    """Synthetic activations: sparse features times known unit directions, without a trained model."""

    type: Literal["directions"]
    """Chooses this kind of subject."""
    features: FeatureSpec
    """The sparse features whose directions are added up."""
    d_in: int = Field(ge=1, le=16_384)
    """Width of the activations that are explained."""
    directions: Literal["random", "repelled", "orthogonal"] = "repelled"
    """How the unit directions are chosen: at random, at random and then pushed apart, or mutually orthogonal, which needs at most d_in features."""  # noqa: E501 - one sentence of documentation is one string
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the Gaussian noise that is added to every coordinate."""
    seed: int = Field(default=0, ge=0)
    """Seed of the directions and of all the data that is drawn from them."""

    @model_validator(mode="after")
    def _enough_dimensions(self) -> DirectionsSubject:
        if self.directions == "orthogonal" and self.features.count > self.d_in:
            text = f"{self.features.count} directions cannot be mutually orthogonal in {self.d_in} dimensions"
            refuse("DirectionsSubject", [(("directions",), text, self.directions)])
        return self


SubjectSpec = Annotated[ToyModelSubject | DirectionsSubject, Field(discriminator="type")]
"""Any kind of subject, told apart by its key ``type``."""
