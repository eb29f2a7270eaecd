"""Training of one autoencoder on one stream of activations.

Shapes: B batch, D d_in, F d_sae.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from vsae_search.training.checkpoint import Checkpoint, Progress
from vsae_search.training.curve import Curve, curve_steps, training_l0
from vsae_search.training.dead import DeadTracker, resample
from vsae_search.training.meter import Meter, check_weights
from vsae_search.training.optimiser import build_adam, clip_gradients_, trainable
from vsae_search.training.rung import Rung
from vsae_search.training.schedule import REPORT_STEPS, dead_window_tokens, lr_factor, step_at
from vsae_search.training.stream import fast_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from vsae_search.saes import SparseAutoencoder
    from vsae_search.space import TrainingSpec

CHECKPOINT_INTERVAL_S = 60.0
"""Seconds of training after which state is saved between rungs too."""


def fit(
    sae: SparseAutoencoder,
    stream: Iterator[Tensor],
    spec: TrainingSpec,
    *,
    device: torch.device | str = "cpu",
    on_rung: Callable[[Rung], None],
    checkpoint: Path | None = None,
    curve: Curve | None = None,
) -> None:
    """Train ``sae`` in place for ``spec.num_steps`` batches.

    With a checkpoint directory, state is saved at every rung (before ``on_rung`` is called) and once a minute between
    them. If the directory holds a state of the same configuration, training continues from it and ends with the same
    weights, bit for bit, as without the interruption, given a stream that repeats itself. The rung at which a state
    was saved is then reported again: a rung is reported at least once, with equal contents.

    An exception raised by ``on_rung`` ends training and passes through; that is how a trial is stopped early.

    Args:
        sae: Autoencoder; ``initialise`` is called with the first batch unless it has been called before.
        stream: Endless batches [B, D] of scaled activations, fresh from its first batch. If it has a
            ``skip(num_batches)`` method, that is used to resume; otherwise used batches are drawn and dropped.
        spec: Budget and schedules.
        device: Where to train; the autoencoder is moved there and stays there.
        on_rung: Called at each fraction in ``spec.rungs``, when the weights are those to be evaluated.
        checkpoint: Directory for the state; None for no checkpoints.
        curve: Filled while training goes on, and from the checkpoint when it is resumed; None for no curve. An
            architecture that is not trained by gradient leaves it empty.

    Raises:
        Diverged: A loss term, the gradient or a weight is not finite; says which, and at which step.
        CorruptFile: The checkpoint was altered.
        UserInputError: The checkpoint belongs to another configuration.
    """
    _Fit(sae, stream, spec, torch.device(device), checkpoint, curve).run(on_rung)


class _Fit:
    """State of one call of :func:`fit`."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        stream: Iterator[Tensor],
        spec: TrainingSpec,
        device: torch.device,
        directory: Path | None,
        curve: Curve | None,
    ) -> None:
        self.sae = sae.to(device)
        self.stream = stream
        self.spec = spec
        self.device = device
        sae.penalty_warmup_fraction = spec.penalty_warmup_fraction
        self.parameters = list(trainable(sae).values())
        self.optimiser = build_adam(sae) if sae.trained_by_gradient else None
        self.tracker = DeadTracker(sae.config.d_sae, window=dead_window_tokens(spec), device=device)
        self.generator = torch.Generator().manual_seed(sae.seed)
        self.meter = Meter(sae.name or type(sae).__name__)
        self.progress = Progress()
        self.curve = curve if self.optimiser is not None else None
        self.curve_steps = curve_steps(spec.num_steps) if self.curve is not None else frozenset()
        self.rungs = [(index, fraction, step_at(fraction, spec)) for index, fraction in enumerate(spec.rungs)]
        # one step after the rung of the same fraction, so that no rung is measured on latents that have just been reset
        self.resample_steps = {step_at(fraction, spec) + 1 for fraction in sae.resample_at()}
        self.checkpoint = directory and Checkpoint(directory, sae, self.optimiser, self.tracker, self.generator, spec)
        self.clock = self.saved_at = time.perf_counter()

    def run(self, on_rung: Callable[[Rung], None]) -> None:
        """Resume if there is something to resume, then train to the end."""
        self._resume()
        self._announce(on_rung)
        while self.progress.step < self.spec.num_steps:
            x_BD = next(self.stream).to(self.device, non_blocking=True)
            self._step(x_BD)
            step = self.progress.step
            if self.curve is not None and step in self.curve_steps:
                self._add_point(self.curve, x_BD)
            if step in self.resample_steps:
                self._resample(x_BD)
            reached = [rung for rung in self.rungs if rung[2] == step]
            if reached:
                self._finish_rungs(reached, x_BD)
                self._announce(on_rung)
            elif step % REPORT_STEPS == 0:
                self._report()
                if time.perf_counter() - self.saved_at >= CHECKPOINT_INTERVAL_S:
                    self._save()

    def _step(self, x_BD: Tensor) -> None:
        if not self.sae.initialised:
            self.sae.initialise(x_BD)
        if self.optimiser is None:
            self.sae.observe(x_BD)
        else:
            self._gradient_step(self.optimiser, x_BD)
        self.progress.step += 1
        self.progress.tokens += len(x_BD)

    def _gradient_step(self, optimiser: torch.optim.Adam, x_BD: Tensor) -> None:
        """One optimiser step; nothing in it reads a value back from the device."""
        optimiser.param_groups[0]["lr"] = self._lr(self.progress.step)
        loss = self.sae.loss(x_BD, self.progress.step / self.spec.num_steps)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.sae.before_step()
        grad_norm = clip_gradients_(self.parameters, self.spec.grad_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.sae.after_step()
        self.tracker.update(loss.fired_F, len(x_BD))
        self.meter.add(loss, grad_norm)

    def _lr(self, step: int) -> float:
        return self.sae.config.lr * lr_factor(step, self.spec, restarted_at=self.progress.restarted_at)

    def _resample(self, x_BD: Tensor) -> None:
        if self.optimiser is None:
            return
        index_N = resample(self.sae, self.optimiser, self.tracker.dead(), x_BD, self.generator)
        if len(index_N) > 0:
            self.tracker.revive(index_N)
            self.sae.mark_dead(self.tracker.dead())
            self.progress.restarted_at = self.progress.step

    def _report(self) -> None:
        """Look at the device: check that all is finite, and refresh which latents count as dead."""
        self.meter.flush(self.progress.step)
        self.sae.mark_dead(self.tracker.dead())

    def _add_point(self, curve: Curve, x_BD: Tensor) -> None:
        """Look at the device for the curve; nothing that training depends on changes."""
        step, tokens = self.progress.step, self.progress.tokens
        self.meter.flush(step)
        now = {"l0": training_l0(self.sae, x_BD), "dead_fraction": float(self.tracker.dead().double().mean())}
        curve.add({"step": step, "tokens": tokens, **self.meter.take_recent(), **now})

    def _finish_rungs(self, reached: list[tuple[int, float, int]], x_BD: Tensor) -> None:
        """Describe the rungs that end at this step, and save."""
        if self.optimiser is None:
            self._solve(x_BD)
        self._report()
        check_weights(self.sae.state_dict(), self.sae.name, self.progress.step)
        means = self.meter.take()
        grad_norm = means.pop("grad_norm")
        self._tick()
        self.progress.pending = [
            Rung(
                index=index,
                fraction=fraction,
                step=self.progress.step,
                tokens=self.progress.tokens,
                losses=means,
                grad_norm=grad_norm,
                lr=self._lr(self.progress.step - 1) if self.optimiser is not None else 0.0,
                dead_fraction=float(self.tracker.dead().double().mean()),
                train_s=self.progress.train_s,
            )
            for index, fraction, _ in reached
        ]
        self._save()

    @torch.no_grad()
    def _solve(self, x_BD: Tensor) -> None:
        """Weights from what was observed, and their loss on the last batch, for architectures without gradient."""
        self.sae.solve()
        loss = self.sae.loss(x_BD, self.progress.step / self.spec.num_steps)
        self.tracker.update(loss.fired_F, len(x_BD))
        self.meter.add(loss, None)

    def _announce(self, on_rung: Callable[[Rung], None]) -> None:
        """Report pending rungs; the time that takes is not training."""
        for rung in self.progress.pending:
            on_rung(rung)
        self.progress.pending = []
        self.clock = time.perf_counter()

    def _resume(self) -> None:
        saved = self.checkpoint.restore() if self.checkpoint else None
        if saved is not None:
            self.progress = saved
            self.meter.sums, self.meter.count = saved.sums, saved.count
            self.meter.recent_sums, self.meter.recent_count = saved.recent_sums, saved.recent_count
            if self.curve is not None:
                self.curve.columns = saved.curve
            fast_forward(self.stream, saved.step)

    def _save(self) -> None:
        if self.checkpoint:
            self._tick()
            self.progress.sums, self.progress.count = self.meter.sums, self.meter.count
            self.progress.recent_sums, self.progress.recent_count = self.meter.recent_sums, self.meter.recent_count
            if self.curve is not None:
                self.progress.curve = self.curve.columns
            self.checkpoint.save(self.progress)
            self.saved_at = time.perf_counter()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.progress.train_s += now - self.clock
        self.clock = now
