"""What is explained: the subject section of a search-space file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vsae_search.space.features import FeatureSpec
from vsae_search.space.strict import Refusal, Strict, refusal, refuse
from vsae_search.space.text import PythonStdlibText, TextSpec, check_revision

BUILT_IN_MODEL = "tiny_gelu_1l"
"""Name of the model that comes with the package."""


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


_MLP_NAMES = ("pre", "post")
_ATTENTION_NAMES = ("q", "k", "v", "z", "pattern", "attn_scores", "result", "rot_q", "rot_k")


class LanguageModelSubject(Strict):
    """A language model that reads text; its activations at one hook point are explained."""

    type: Literal["language_model"]
    """Chooses this kind of subject."""
    model: str = Field(min_length=1, max_length=1000)
    """The model: tiny_gelu_1l is built in and needs no network; otherwise a name on the Hugging Face hub, such as gpt2 or gelu-1l, or a directory."""  # noqa: E501 - one sentence of documentation is one string
    revision: str | None = None
    """Commit hash, tag or branch of a model on the hub; left out, the main branch. The commit is looked up when the sweep starts, and recorded."""  # noqa: E501 - one sentence of documentation is one string
    hook: str | None = Field(default=None, min_length=1, max_length=200)
    """Where the activations are taken, as TransformerLens names it, such as blocks.0.hook_mlp_out; either this, or layer and act_name."""  # noqa: E501 - one sentence of documentation is one string
    layer: int | None = Field(default=None, ge=0)
    """Number of the block, from 0, in the short form of the hook."""
    act_name: str | None = Field(default=None, min_length=1, max_length=100)
    """Name of the activation inside the block, in the short form of the hook, such as mlp_out, resid_pre, attn_out or post."""  # noqa: E501 - one sentence of documentation is one string
    processing: Literal["none", "folded"] = "none"
    """Whether the weights are used as published, or as TransformerLens rewrites them, with folded LayerNorm and centred weights, which changes the activations."""  # noqa: E501 - one sentence of documentation is one string
    context_length: int = Field(default=128, ge=4, le=1_048_576)
    """Number of tokens in a sequence, of which the first is BOS."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format in which the model computes; fp16 only on a GPU. Losses are computed from 32-bit logits in every case."""  # noqa: E501 - one sentence of documentation is one string
    harvest_batch: int = Field(default=32, ge=1, le=65_536)
    """Number of sequences in one forward pass."""
    text: TextSpec = PythonStdlibText()
    """What the model reads."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of the documents and of the rows."""

    @field_validator("model")
    @classmethod
    def _no_address(cls, model: str) -> str:
        if "://" in model or "\0" in model or not model.strip():
            raise refusal(f"{model!r} is neither the name of a model, such as gpt2, nor a directory")
        return model

    @field_validator("revision")
    @classmethod
    def _is_a_revision(cls, revision: str | None) -> str | None:
        return check_revision(revision)

    @model_validator(mode="after")
    def _one_hook(self) -> LanguageModelSubject:
        refusals: list[Refusal] = []
        short = {"layer": self.layer, "act_name": self.act_name}
        given = [name for name, value in short.items() if value is not None]
        if self.hook is not None and given:
            refusals.append(((given[0],), "give either hook, or layer and act_name, but not both", short[given[0]]))
        elif self.hook is None and not given:
            refusals.append((("hook",), "is missing; name a hook such as blocks.0.hook_mlp_out", None))
        elif self.hook is None and len(given) == 1:
            other = "act_name" if given == ["layer"] else "layer"
            refusals.append(((other,), f"is missing; {given[0]} alone does not say which activation is meant", None))
        if self.processing == "folded" and self.model == BUILT_IN_MODEL:
            refusals.append((("processing",), f"{BUILT_IN_MODEL} is only used as it is (none)", self.processing))
        if refusals:
            refuse("LanguageModelSubject", refusals)
        return self

    @property
    def hook_name(self) -> str:
        """The hook as TransformerLens names it, from either of its two forms."""
        if self.hook is not None:
            return self.hook
        assert self.act_name is not None, "either form is complete"
        name = self.act_name.removeprefix("hook_")
        if name in _MLP_NAMES:
            return f"blocks.{self.layer}.mlp.hook_{name}"
        if name in _ATTENTION_NAMES:
            return f"blocks.{self.layer}.attn.hook_{name}"
        return f"blocks.{self.layer}.{self.act_name}" if "." in name else f"blocks.{self.layer}.hook_{name}"


SubjectSpec = Annotated[ToyModelSubject | DirectionsSubject | LanguageModelSubject, Field(discriminator="type")]
"""Any kind of subject, told apart by its key ``type``."""
