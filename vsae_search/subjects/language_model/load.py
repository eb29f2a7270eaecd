"""From a model's files to a model in this process: loaded once, checked against the checksum, kept."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from vsae_search.errors import CorruptFile, UserInputError, VsaeSearchError
from vsae_search.subjects.language_model.fold import fold
from vsae_search.subjects.language_model.legacy import load_legacy
from vsae_search.subjects.language_model.one_layer import OneLayerCausalModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from vsae_search.subjects.language_model.base import CausalModel
    from vsae_search.subjects.language_model.locate import ModelFiles

Dtype = Literal["fp32", "bf16", "fp16"]

_TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_KEPT_MODELS = 2
_models: dict[tuple[ModelIdentity, str], CausalModel] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class ModelIdentity:
    """A model with everything that determines its activations.

    Attributes:
        files: Where its files are.
        processing: Whether its weights are rewritten (``folded``) or not (``none``).
        dtype: Number format in which it computes.
        weights: Sha256 (hex) of the weights as loaded, before any rewriting.
    """

    files: ModelFiles
    processing: str
    dtype: Dtype
    weights: str


def identify(files: ModelFiles, processing: str, dtype: Dtype) -> ModelIdentity:
    """Load a model for the first time and take its checksum.

    Raises:
        UserInputError: The model or its number format cannot be used here.
        CorruptFile: Its weights are damaged.
        EnvironmentNotReady: Its files cannot be fetched.
    """
    found: list[str] = []
    unknown = ModelIdentity(files, processing, dtype, "")
    model = _load(unknown, device_for(dtype), found)
    identity = replace(unknown, weights=found[0])
    with _lock:
        _keep(identity, model)
    return identity


def load(identity: ModelIdentity) -> CausalModel:
    """Return the model, on the GPU of this process when it has one, loading it when that was not done yet.

    Raises:
        CorruptFile: The files are no longer those that were identified.
        UserInputError: The number format cannot be used on this machine.
        EnvironmentNotReady: The files cannot be fetched.
    """
    device = device_for(identity.dtype)
    with _lock:
        model = _models.get((identity, str(device)))
        if model is None:
            model = _load(identity, device, [])
            _keep(identity, model)
        return model


def device_for(dtype: Dtype) -> torch.device:
    """Return where this process runs models: its GPU, or the CPU when it was given none.

    Raises:
        UserInputError: 16-bit floats were asked for on a CPU, where they are hundreds of times slower.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if dtype == "fp16":
        raise UserInputError(
            "subject.dtype is fp16, and this process has no GPU", "Use fp32 or bf16: a CPU computes in these."
        )
    return torch.device("cpu")


def checksum(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return the sha256 (hex) of names, types, shapes and bytes of some tensors, in the given order."""
    state = hashlib.sha256()
    for name, tensor in weights:
        content = tensor.detach().cpu().contiguous()
        state.update(f"{name} {content.dtype} {tuple(content.shape)}\n".encode())
        state.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _keep(identity: ModelIdentity, model: CausalModel) -> None:
    """Remember a model, and forget the oldest when there are too many."""
    _models[identity, str(model.device)] = model
    while len(_models) > _KEPT_MODELS:
        _models.pop(next(iter(_models)))


def _load(identity: ModelIdentity, device: torch.device, found: list[str]) -> CausalModel:
    """Load a model on the CPU, check it, rewrite it if asked to, and move it to its device."""
    loader = _load_bridge if identity.files.kind == "transformers" else _load_one_layer
    return loader(identity, device, found)


def _check(identity: ModelIdentity, weights: Iterable[tuple[str, Tensor]], found: list[str]) -> None:
    found.append(checksum(weights))
    if identity.weights and found[0] != identity.weights:
        raise CorruptFile(
            f"the weights of {identity.files.name} are not those with which the sweep was prepared",
            "A local model changed, or machines have different versions of the libraries; make them the same and start"
            " again.",
        )


def _load_one_layer(identity: ModelIdentity, device: torch.device, found: list[str]) -> CausalModel:
    if identity.files.kind == "built_in":
        from vsae_search.subjects.tiny_gelu_1l import load_model

        model = load_model()
    else:
        model = load_legacy(identity.files.folder())
    _check(identity, sorted(model.state_dict().items()), found)
    if identity.processing == "folded":
        model = fold(model)
    return OneLayerCausalModel(model.to(device=device, dtype=_TORCH_TYPES[identity.dtype]))


def _load_bridge(identity: ModelIdentity, device: torch.device, found: list[str]) -> CausalModel:
    """Load a model of the transformers library behind a bridge of TransformerLens."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    from vsae_search.subjects.language_model.bridge import BridgeCausalModel

    bridge = _boot(identity, _TORCH_TYPES[identity.dtype])
    _check(identity, sorted(bridge.original_model.state_dict().items()), found)
    if identity.processing == "folded":
        bridge.enable_compatibility_mode(disable_warnings=True)
    return BridgeCausalModel(bridge.to(device, print_details=False))


class _CompleteModel:
    """Loads a causal model as the transformers library does, but never with weights that it had to make up."""

    @staticmethod
    def from_pretrained(folder: str, **options: Any) -> Any:
        """Load a model.

        Raises:
            CorruptFile: Some weights are missing or have another shape; the library would replace them by random ones.
        """
        from transformers import AutoModelForCausalLM

        loader: Any = AutoModelForCausalLM  # its types do not know that it returns a pair here
        model, report = loader.from_pretrained(folder, output_loading_info=True, **options)
        wrong = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        if wrong:
            raise CorruptFile(
                f"the weights in {folder} do not fit its config.json; missing or misshapen: {', '.join(wrong[:5])}",
                "Use a complete copy of the model.",
            )
        return model


def _boot(identity: ModelIdentity, dtype: torch.dtype) -> Any:
    """Let TransformerLens load a folder; code that a repository brings along is never run."""
    from transformer_lens.model_bridge import TransformerBridge

    folder = identity.files.folder()
    try:
        return TransformerBridge.boot_transformers(
            str(folder), device="cpu", dtype=dtype, trust_remote_code=False, model_class=_CompleteModel
        )
    except VsaeSearchError:
        raise
    except SafetensorError as error:
        raise CorruptFile(
            f"the weights of {identity.files.name} are damaged: {error}",
            f"Delete {folder} and try again: a model of the hub is then fetched anew.",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserInputError(
            f"the model {identity.files.name} cannot be loaded: {reason}",
            "TransformerLens must know its architecture, and its files must be complete.",
        ) from error
