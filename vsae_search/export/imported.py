"""Measures an autoencoder from elsewhere on a sweep's own subject and evaluation rows.

Shapes: B batch, N evaluation rows, D d_in, F d_sae.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsae_search.activations.files import corrupt, digest, read_shard
from vsae_search.activations.harvest import harvest_arrays
from vsae_search.activations.manifest import bank_requests
from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.evaluation import evaluate
from vsae_search.export.formats import reader
from vsae_search.report.references import REFERENCES_FOLDER, ImportedSae
from vsae_search.saes import SaeConfig, SparseAutoencoder
from vsae_search.search import load_sweep
from vsae_search.search.records import BANK_FOLDER, read_record, write_record
from vsae_search.space import SearchSpace
from vsae_search.subjects import Rows, build_subject

if TYPE_CHECKING:
    from pathlib import Path

    from vsae_search.export.formats import Read
    from vsae_search.export.plain import PlainSae
    from vsae_search.search import SweepRecord
    from vsae_search.subjects import Subject

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        record: The autoencoder, measured.
        path: Where that is kept.
        note: What the user should know; empty when there is nothing.
    """

    record: ImportedSae
    path: Path
    note: str = ""


class PlainEncoder(SparseAutoencoder):
    """An autoencoder that was read, in the form in which autoencoders are evaluated: for scaled activations.

    Args:
        plain: The autoencoder, for activations as the model has them.
        scale: The factor that rows are multiplied by.
    """

    def __init__(self, plain: PlainSae, scale: float) -> None:
        with torch.device("meta"):  # no memory for weights that would only be replaced
            super().__init__(SaeConfig(d_in=plain.d_in, d_sae=plain.d_sae))
        self._plain = plain.for_unscaled_inputs(1.0 / scale).with_unit_decoder().as_float32()
        self.W_dec = torch.nn.Parameter(self._plain.W_dec_FD, requires_grad=False)
        self.b_dec = torch.nn.Parameter(self._plain.b_dec_D, requires_grad=False)
        self.initialised = True

    def encode(self, x_BD: Tensor) -> Tensor:
        """Code [B, F] of scaled activations [B, D]."""
        return self._plain.encode(x_BD)


def import_sae(directory: Path, path: Path, format_name: str, *, label: str, check_hook: bool = True) -> Imported:
    """Read an autoencoder, measure it with every metric of a trial, and keep the numbers with the sweep.

    Nothing but numbers is kept. The same import again gives the same record.

    Args:
        directory: The sweep directory.
        path: Folder of the autoencoder.
        format_name: Name of a format.
        label: What reports call it: letters, digits, ``.``, ``_`` and ``-``.
        check_hook: Whether an autoencoder of another hook is refused.

    Raises:
        UserInputError: It cannot be read, describes another activation, or the label is taken or impossible.
        EnvironmentNotReady: The sweep has not harvested its activations.
        CorruptFile: A file is damaged.
        Diverged: Its reconstructions are not finite.
    """
    if not _LABEL.fullmatch(label):
        raise UserInputError(f"{label!r} cannot be a label", "use up to 60 letters, digits, '.', '_' and '-'")
    sweep, _ = load_sweep(directory)
    if "scale" not in sweep.bank:
        raise EnvironmentNotReady(f"{sweep.name} has not harvested its activations", "start the sweep first")
    read = reader(format_name).read(path)
    note = require_same_activation(read, sweep, check_hook=check_hook)
    target = directory / REFERENCES_FOLDER / f"{label}.json"
    weights = weights_digest(read.sae)
    if target.exists() and read_record(target, ImportedSae).digest != weights:
        raise UserInputError(
            f"{sweep.name} has a reference {label!r} with other weights", f"give another --label, or remove {target}"
        )
    record = ImportedSae(
        label=label,
        format=format_name,
        class_name=read.class_name,
        source=str(path),
        model=read.model,
        hook=read.hook,
        dataset=read.dataset,
        d_sae=read.sae.d_sae,
        digest=weights,
        evaluation_digest=sweep.bank["evaluation_digest"],
        metrics=measure(read.sae, sweep, directory),
    )
    target.parent.mkdir(exist_ok=True)
    write_record(target, record)
    return Imported(record, target, note)


def require_same_activation(read: Read, sweep: SweepRecord, *, check_hook: bool = True) -> str:
    """Refuse an autoencoder of another activation.

    Returns:
        A warning where its model has another name, which may be another spelling of the same; else nothing.

    Raises:
        UserInputError: Its width or its hook is another one.
    """
    d_in, hook = sweep.subject.get("d_in"), sweep.subject.get("hook")
    if read.sae.d_in != d_in:
        raise UserInputError(
            f"the autoencoder reads activations of width {read.sae.d_in}; those of {sweep.name} have {d_in}",
            "import it into a sweep of the activation that it was trained on",
        )
    if check_hook and hook is not None and read.hook not in (None, hook):
        raise UserInputError(
            f"the autoencoder was trained on {read.hook}; {sweep.name} explains {hook}",
            "import it into a sweep of that hook; if the two names mean the same, add --any-hook",
        )
    model = sweep.subject.get("model")
    if hook is not None and read.model not in (None, model):
        return f"it says it was trained on the model {read.model}; {sweep.name} explains {model}"
    return ""


def measure(sae: PlainSae, sweep: SweepRecord, directory: Path) -> dict[str, float]:
    """All metrics of an autoencoder on the evaluation rows of a sweep, as for its trials."""
    subject = build_subject(SearchSpace.model_validate(sweep.space).subject, directory.parent.resolve() / BANK_FOLDER)
    rows = evaluation_rows(subject, sweep, directory)
    scale = float(sweep.bank["scale"])
    done = evaluate(PlainEncoder(sae, scale), rows, scale=scale, subject=subject, baseline=subject.baseline(rows))
    return done.metrics


def evaluation_rows(subject: Subject, sweep: SweepRecord, directory: Path) -> Rows:
    """The evaluation rows of a sweep: from its bank, or harvested again when their file is gone.

    Raises:
        CorruptFile: The file is damaged, or rows harvested again are not those that the trials were measured on.
    """
    request = bank_requests(subject.fingerprint, SearchSpace.model_validate(sweep.space).activations)[-1]
    path = directory.parent / BANK_FOLDER / sweep.bank["key"] / request.file_name
    expected = sweep.bank["evaluation_digest"]
    try:
        arrays, _ = read_shard(path, request, expected)
    except FileNotFoundError:
        arrays = harvest_arrays(subject, request)
        if digest(arrays) != expected:
            raise corrupt(path, "it is gone, and harvesting it again gave different rows") from None
    return Rows(**arrays)


def weights_digest(sae: PlainSae) -> str:
    """SHA-256 over the tensors of an autoencoder and what its code is."""
    state = hashlib.sha256(f"{sae.kind} {sae.k} {sae.subtracts_b_dec}".encode())
    for name, tensor in sae.tensors().items():
        state.update(f"{name} {tuple(tensor.shape)}".encode())
        state.update(tensor.double().contiguous().numpy().tobytes())
    return state.hexdigest()
