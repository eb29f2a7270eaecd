"""A new architecture is one new file: nothing else is touched, and everything knows it."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from sae_suite import SaeConformance, toy_rows

import vsae_search.saes as saes
from vsae_search.errors import UserInputError
from vsae_search.saes import registry
from vsae_search.space import TrainingSpec
from vsae_search.training import fit

SQUARE = """
    from typing import ClassVar
    from pydantic import Field
    from vsae_search.saes.base import Loss, SaeConfig, SparseAutoencoder
    from vsae_search.saes.registry import register

    class SquareConfig(SaeConfig):
        weight: float = Field(default=0.1, ge=0, description="Weight of the squared code.")

    @register("square")
    class Square(SparseAutoencoder):
        Config: ClassVar[type[SaeConfig]] = SquareConfig

        def encode(self, x_BD):
            return self.preactivations(x_BD).relu()

        def loss(self, x_BD, progress):
            f_BF = self.encode(x_BD)
            rec, _ = self.reconstruction(f_BF, x_BD)
            square = self.config.weight * self.warm_up(progress) * f_BF.square().sum(1).mean()
            return Loss(rec + square, rec, {"square": square}, (f_BF.detach() > 0).any(0))
"""

PRINCIPAL = """
    from typing import ClassVar
    import torch
    from vsae_search.saes.base import Loss, SparseAutoencoder
    from vsae_search.saes.registry import register

    @register("principal")
    class Principal(SparseAutoencoder):
        \"\"\"Both signs of the leading principal directions.\"\"\"

        subtract_b_dec: ClassVar[bool] = True
        trained_by_gradient: ClassVar[bool] = False

        def build(self):
            d = self.config.d_in
            self.register_buffer("moment", torch.zeros(d, d))
            self.register_buffer("total", torch.zeros(d))
            self.register_buffer("count", torch.zeros(()))

        def observe(self, x_BD):
            self.moment += x_BD.T @ x_BD
            self.total += x_BD.sum(0)
            self.count += len(x_BD)

        @torch.no_grad()
        def solve(self):
            mean = self.total / self.count
            _, vectors = torch.linalg.eigh(self.moment / self.count - torch.outer(mean, mean))
            n = min(self.config.d_sae // 2, self.config.d_in)
            rows = vectors.flip(1).T[:n]
            self.W_dec.zero_()
            self.W_dec[: 2 * n] = torch.cat([rows, -rows])
            self.W_dec[2 * n :, 0] = 1.0
            self.W_enc.copy_(self.W_dec.T)
            self.W_enc[:, 2 * n :] = 0.0
            self.b_dec.copy_(mean)

        def encode(self, x_BD):
            return self.preactivations(x_BD).relu()

        def loss(self, x_BD, progress):
            f_BF = self.encode(x_BD)
            rec, _ = self.reconstruction(f_BF, x_BD)
            return Loss(rec, rec, {}, (f_BF.detach() > 0).any(0))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that belongs to the package for one test; returns a function that adds a file to it."""
    monkeypatch.setattr(saes, "__path__", [*saes.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    monkeypatch.setattr(registry, "_SCANNED", set(registry._SCANNED))
    before = set(sys.modules)

    def add(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    yield add
    for module in set(sys.modules) - before:
        if module.startswith("vsae_search.saes."):
            del sys.modules[module]


def conform(architecture_name: str) -> int:
    """Run every check of the suite that needs no fixture; returns how many ran."""

    class Conformance(SaeConformance):
        architecture = architecture_name

    suite, ran = Conformance(), 0
    for name in dir(suite):
        method = getattr(suite, name)
        if name.startswith("test_") and method.__code__.co_argcount == 1:
            try:
                method()
                ran += 1
            except pytest.skip.Exception:
                pass
    return ran


def test_a_new_file_is_found_configured_trained_and_stored(package, tmp_path):
    assert "square" not in saes.names()
    package("square", SQUARE)
    assert "square" in saes.names()
    assert saes.config_classes()["square"].model_fields["weight"].default == 0.1
    sae = saes.create("square", d_in=8, d_sae=16, weight=0.2)
    losses = []
    spec = TrainingSpec(num_tokens=20 * 64, batch_size=64)
    fit(sae, iter(toy_rows(64 * 20).split(64)), spec, on_rung=lambda rung: losses.append(rung.losses))
    assert set(losses[-1]) == {"total", "reconstruction", "square"}
    saes.save(sae, tmp_path / "saved")
    assert torch.equal(saes.load(tmp_path / "saved").W_enc, sae.W_enc)


def test_a_new_file_passes_the_suite(package):
    package("square", SQUARE)
    assert conform("square") >= 15


def test_an_architecture_without_gradient(package, tmp_path):
    package("principal", PRINCIPAL)
    assert conform("principal") >= 8
    spec, rungs = TrainingSpec(num_tokens=8 * 64, batch_size=64), []
    rows = toy_rows(64 * 8)
    sae = saes.create("principal", d_in=8, d_sae=16)
    fit(sae, iter(rows.split(64)), spec, on_rung=rungs.append, checkpoint=tmp_path)
    assert [rung.step for rung in rungs] == [2, 4, 8]
    assert rungs[-1].grad_norm == 0.0
    torch.testing.assert_close(sae(rows), rows, rtol=1e-3, atol=1e-3)  # as many directions as dimensions


def test_a_taken_name_is_refused(package):
    package("square", SQUARE)
    package("square_again", SQUARE)
    with pytest.raises(UserInputError, match="already registered"):
        saes.names()
