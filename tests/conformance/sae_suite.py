"""What every architecture must do, as a class that the test of an architecture subclasses.

    class TestRelu(SaeConformance):
        architecture = "relu"

``params`` gives hyper-parameters for the small configuration; the class attributes below state where an architecture
is an exception, and why.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vsae_search.saes as saes
from vsae_search.space import TrainingSpec
from vsae_search.training.dead import DeadTracker, resample
from vsae_search.training.meter import Meter
from vsae_search.training.optimiser import build_adam, clip_gradients_, trainable

WAITING_OPS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim"}


class CountWaits(TorchDispatchMode):
    """Counts operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self.num_ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num_ops += 1
        name = func.overloadpacket.__name__
        boolean_index = name in {"index", "index_put_", "index_put"} and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING_OPS or boolean_index:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def toy_rows(num_rows: int, d_in: int = 8, num_features: int = 12, seed: int = 7) -> torch.Tensor:
    """Sparse positive combinations of fixed directions plus an offset, scaled so that the mean of ‖x‖² is d_in."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(num_features, d_in, generator=generator), dim=1)
    on = torch.rand(num_rows, num_features, generator=generator) < 0.15
    rows = (on * torch.rand(num_rows, num_features, generator=generator)) @ directions + 0.1
    return rows * (d_in / rows.square().sum(1).mean()).sqrt()


class SaeConformance:
    """Subclass with ``architecture`` (and ``params``) to run every check on one architecture."""

    architecture: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    d_in: ClassVar[int] = 8
    d_sae: ClassVar[int] = 24
    loss_is_per_token: ClassVar[bool] = True
    """False for architectures that select over the whole batch."""
    smooth: ClassVar[bool] = True
    """False where the gradient is an estimate on purpose (straight-through), so finite differences do not apply."""

    def make(self, *, seed: int = 0, **params: Any) -> saes.SparseAutoencoder:
        return saes.create(
            self.architecture, seed=seed, **{"d_in": self.d_in, "d_sae": self.d_sae} | self.params | params
        )

    def trained(self, num_steps: int = 60, *, seed: int = 0, lr: float = 3e-3) -> saes.SparseAutoencoder:
        """A few real steps (or observations), as training makes them."""
        sae = self.make(seed=seed, lr=lr)
        rows = toy_rows(2048)
        sae.initialise(rows)
        if not sae.trained_by_gradient:
            sae.observe(rows)
            sae.solve()
            return sae
        optimiser = build_adam(sae)
        for step in range(num_steps):
            self.step(sae, optimiser, rows[(step % 8) * 256 :][:256], step / num_steps)
        sae.calibrate(toy_rows(1024, seed=8))
        return sae

    def step(self, sae, optimiser, x_BD, progress):
        loss = sae.loss(x_BD, progress)
        loss.total.backward()
        sae.before_step()
        norm = clip_gradients_(list(trainable(sae).values()), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        sae.after_step()
        return loss, norm

    # -- shapes, types, determinism ------------------------------------------------------------------------------

    def test_shapes(self):
        sae, x_BD = self.make(), toy_rows(5)
        assert sae.W_enc.shape == (self.d_in, self.d_sae)
        assert sae.W_dec.shape == (self.d_sae, self.d_in)
        assert sae.b_enc.shape == (self.d_sae,)
        assert sae.b_dec.shape == (self.d_in,)
        f_BF = sae.encode(x_BD)
        assert f_BF.shape == (5, self.d_sae)
        assert sae.decode(f_BF).shape == sae(x_BD).shape == x_BD.shape
        loss = sae.loss(x_BD, 0.5)
        assert loss.total.shape == loss.reconstruction.shape == ()
        assert loss.fired_F.shape == (self.d_sae,)
        assert loss.fired_F.dtype == torch.bool
        assert not loss.fired_F.requires_grad
        parts = loss.reconstruction + sum(loss.penalties.values())
        torch.testing.assert_close(loss.total, parts)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_dtype_is_kept(self, dtype):
        sae, x_BD = self.make().to(dtype), toy_rows(5).to(dtype)
        assert sae.encode(x_BD).dtype == dtype
        assert sae(x_BD).dtype == dtype
        assert sae.loss(x_BD, 1.0).total.dtype == dtype

    def test_device_is_kept(self):
        sae = self.make().to("meta")
        assert sae(toy_rows(5).to("meta")).device.type == "meta"

    def test_code_is_non_negative_and_deterministic(self):
        sae, x_BD = self.trained(), toy_rows(64)
        first, rng = sae.encode(x_BD), torch.get_rng_state()
        second = sae.encode(x_BD)
        assert (first >= 0).all()
        assert torch.equal(first, second)
        assert torch.equal(rng, torch.get_rng_state())

    def test_l0_is_as_declared(self):
        sae = self.trained()
        k = sae.declared_l0()
        if k is None:
            pytest.skip("L0 is not fixed by the configuration")
        x_BD = toy_rows(200)
        positive_B = (sae.preactivations(x_BD) > 0).sum(1)
        assert torch.equal((sae.encode(x_BD) > 0).sum(1), positive_B.clamp(max=k))
        assert (positive_B >= k).any()

    def test_seed_decides_everything(self):
        first, second, other = self.trained(), self.trained(), self.trained(seed=1)
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name
        if first.trained_by_gradient:
            assert not torch.equal(first.W_dec, other.W_dec)

    # -- loss and gradient ---------------------------------------------------------------------------------------

    def test_reconstruction_is_sum_over_dimensions_mean_over_tokens(self):
        sae, x_BD = self.make(), toy_rows(16)
        if not self.loss_is_per_token:
            pytest.skip("the training code is not the inference code")
        expected = (sae(x_BD) - x_BD).square().sum(1).mean()
        torch.testing.assert_close(sae.loss(x_BD, 1.0).reconstruction, expected)

    def test_loss_of_a_batch_is_the_mean_over_its_tokens(self):
        if not self.loss_is_per_token:
            pytest.skip("selects over the whole batch")
        sae, x_BD = self.make().double(), toy_rows(6).double()
        singles = torch.stack([sae.loss(row_D[None], 0.7).total for row_D in x_BD])
        torch.testing.assert_close(sae.loss(x_BD, 0.7).total, singles.mean())
        torch.testing.assert_close(sae.loss(x_BD.repeat(3, 1), 0.7).total, singles.mean())

    def test_gradient_equals_finite_differences(self):
        sae = self.make(d_in=3, d_sae=5).double()
        if not (self.smooth and sae.trained_by_gradient):
            pytest.skip("the gradient is not that of the loss")
        x_BD = toy_rows(4, d_in=3).double()
        sae.initialise(x_BD)
        sae.loss(x_BD, 0.6).total.backward()
        for name, parameter in trainable(sae).items():
            numeric = torch.zeros_like(parameter)
            for index in range(parameter.numel()):
                numeric.view(-1)[index] = self.slope(sae, parameter.data.view(-1), index, x_BD)
            torch.testing.assert_close(parameter.grad, numeric, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")

    @staticmethod
    def slope(sae, flat, index, x_BD, width=1e-6):
        start = float(flat[index])
        values = []
        for shifted in (start + width, start - width):
            flat[index] = shifted
            values.append(float(sae.loss(x_BD, 0.6).total.detach()))
        flat[index] = start
        return (values[0] - values[1]) / (2 * width)

    def test_gradients_are_finite_on_hard_inputs(self):
        sae = self.make()
        if not sae.trained_by_gradient:
            pytest.skip("not trained by gradient")
        half = torch.arange(self.d_sae) % 2 == 0
        for rows in (torch.zeros(4, self.d_in), toy_rows(4)[:1].repeat(4, 1), toy_rows(4) * 1e4, toy_rows(1)):
            sae.mark_dead(half)
            sae.loss(rows, 0.0).total.backward()
            for name, parameter in trainable(sae).items():
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name

    def test_loss_decreases(self):
        sae = self.make(lr=3e-3)
        rows = toy_rows(2048)
        sae.initialise(rows)
        before = float(sae.loss(rows, 1.0).total.detach())
        trained = self.trained(300)
        after = float(trained.loss(rows, 1.0).total.detach())
        assert after < (0.9 * before if sae.trained_by_gradient else before)

    # -- training hooks ------------------------------------------------------------------------------------------

    def test_decoder_norm_is_kept(self):
        sae = self.trained(30)
        if not sae.unit_norm_decoder:
            pytest.skip("the decoder norm is free")
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(self.d_sae), rtol=0, atol=1e-6)

    def test_projected_gradient_is_orthogonal_to_decoder_rows(self):
        sae = self.make()
        if not (sae.unit_norm_decoder and sae.trained_by_gradient):
            pytest.skip("the decoder norm is free")
        sae.loss(toy_rows(32), 1.0).total.backward()
        sae.before_step()
        assert sae.W_dec.grad.norm() > 0
        assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-5 * sae.W_dec.grad.norm()

    def test_after_step_is_idempotent(self):
        sae = self.trained(20)
        sae.after_step()
        once = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
        sae.after_step()
        for name, tensor in sae.state_dict().items():
            torch.testing.assert_close(tensor, once[name], rtol=0, atol=1e-6)

    def test_a_step_never_waits_for_the_device(self):
        sae = self.make()
        if not sae.trained_by_gradient:
            pytest.skip("not trained by gradient")
        sae.mark_dead(torch.arange(self.d_sae) % 2 == 0)
        optimiser, rows = build_adam(sae), toy_rows(64)
        tracker, meter = DeadTracker(self.d_sae, window=10), Meter(sae.name)
        self.step(sae, optimiser, rows, 0.0)  # the optimiser makes its state in the first step
        with CountWaits() as counter:
            loss, norm = self.step(sae, optimiser, rows, 0.5)
            tracker.update(loss.fired_F, len(rows))
            meter.add(loss, norm)
        assert counter.waits == []
        assert counter.num_ops > 20, "the counter sees the step"

    def test_marking_dead_does_not_change_the_code(self):
        sae, rows = self.make(), toy_rows(16)
        before = sae.encode(rows)
        sae.mark_dead(torch.ones(self.d_sae, dtype=torch.bool))
        assert torch.equal(sae.encode(rows), before)

    # -- storage and export --------------------------------------------------------------------------------------

    def test_round_trip_is_bit_exact(self, tmp_path):
        sae, rows = self.trained(), toy_rows(32)
        saes.save(sae, tmp_path)
        loaded = saes.load(tmp_path)
        assert type(loaded) is type(sae)
        assert loaded.config == sae.config
        assert loaded.seed == sae.seed
        state = loaded.state_dict()
        assert state.keys() == sae.state_dict().keys()
        for name, tensor in sae.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        assert torch.equal(loaded.encode(rows), sae.encode(rows))
        assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
            n: p.requires_grad for n, p in sae.named_parameters()
        }

    def test_canonical_form_is_the_same_function(self):
        sae, rows = self.trained().double(), toy_rows(256).double()
        folded = sae.canonical()
        norm_F = torch.linalg.vector_norm(sae.W_dec, dim=1)
        torch.testing.assert_close(folded.W_dec_FD.norm(dim=1), torch.ones_like(norm_F))
        torch.testing.assert_close(folded.encode(rows), sae.encode(rows) * norm_F, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(folded(rows), sae(rows), rtol=1e-5, atol=1e-5)
        raw = folded.for_raw_inputs(3.0)
        torch.testing.assert_close(raw(rows / 3.0), sae(rows) / 3.0, rtol=1e-5, atol=1e-5)

    def test_calibration_and_metrics(self):
        sae, rows = self.trained(), toy_rows(512)
        weights = {name: parameter.clone() for name, parameter in sae.named_parameters()}
        sae.calibrate(rows)
        assert all(torch.equal(parameter, weights[name]) for name, parameter in sae.named_parameters())
        assert all(isinstance(value, float) for value in sae.metrics().values())

    def test_resampling_does_not_depend_on_calibration(self):
        weights = []
        for held_out in (toy_rows(1024, seed=8), 3.0 * toy_rows(64, seed=9)):
            sae = self.trained()
            if not sae.trained_by_gradient:
                pytest.skip("not trained by gradient")
            with torch.no_grad():
                sae.b_enc[:6] = -100.0
            dead_F, optimiser = torch.arange(self.d_sae) < 6, build_adam(sae)
            sae.calibrate(held_out)
            index_N = resample(sae, optimiser, dead_F, toy_rows(300, seed=10), torch.Generator().manual_seed(0))
            assert index_N.tolist() == list(range(6))
            weights.append(sae.W_dec.detach().clone())
        assert torch.equal(*weights)

    def test_every_field_is_documented_and_has_a_default(self):
        for name, field in saes.get(self.architecture).Config.model_fields.items():
            assert field.description, name
            assert name in {"d_in", "d_sae"} or not field.is_required(), name

    def test_short_training_run(self, tmp_path):
        from vsae_search.training import fit

        spec = TrainingSpec(num_tokens=20 * 64, batch_size=64)
        rungs = []
        sae = self.make()
        rows = toy_rows(64 * 20)
        fit(sae, iter(rows.split(64)), spec, on_rung=rungs.append, checkpoint=tmp_path)
        assert [rung.step for rung in rungs] == [5, 10, 20]
        assert rungs[-1].tokens == 1280
        assert all(torch.isfinite(torch.tensor(list(rung.losses.values()))).all() for rung in rungs)
