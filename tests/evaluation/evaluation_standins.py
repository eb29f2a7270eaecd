"""A subject whose loss is plain arithmetic, and autoencoders whose codes are known in advance."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from vsae_search.evaluation import Evaluation, evaluate
from vsae_search.subjects import Baseline, FeatureGroup, GroundTruth, Rows, Spliced


@dataclass
class Squares:
    """Loss of a sequence of ``rows_per_sequence`` rows: its mean ||x - xhat||^2 + 1, so 1 when nothing is changed."""

    truth: GroundTruth | None = None
    rows_per_sequence: int = 1
    spliced: list[np.ndarray] = field(default_factory=list)

    def splice(self, rows, xhat_ND):
        self.spliced.append(xhat_ND)
        error_N = ((rows.x_ND.astype(np.float64) - xhat_ND) ** 2).sum(axis=1)
        return 1.0 + error_N.reshape(-1, self.rows_per_sequence).mean(axis=1)

    def baseline(self, rows):
        zero, mean = np.zeros_like(rows.x_ND), np.broadcast_to(rows.x_ND.mean(axis=0), rows.x_ND.shape)
        return Baseline(*(self.splice(rows, value) for value in (rows.x_ND, zero, mean)))


class Predictor(Squares):
    """A subject that predicts N(x, 1) and, spliced, N(xhat, 1), whose divergence is half the squared error."""

    def splice_with_kl(self, rows, xhat_ND):
        loss_S = self.splice(rows, xhat_ND)
        return Spliced(loss_S, (loss_S - 1.0) / 2)


class Linear(torch.nn.Module):
    """Code sigma(x W_enc), decoded by W_dec; ReLU unless another sigma is given."""

    def __init__(self, W_dec, W_enc=None, sigma=torch.relu):
        super().__init__()
        self.W_dec = torch.nn.Parameter(torch.as_tensor(np.asarray(W_dec), dtype=torch.float32))
        encoder = self.W_dec.detach().T if W_enc is None else torch.as_tensor(np.asarray(W_enc), dtype=torch.float32)
        self.W_enc = torch.nn.Parameter(encoder.clone())
        self.config = SimpleNamespace(d_sae=self.W_dec.shape[0])
        self.sigma = sigma

    def encode(self, x_BD):
        return self.sigma(x_BD @ self.W_enc)

    def decode(self, f_BF):
        return f_BF @ self.W_dec


class Identity(Linear):
    """Two latents per dimension, one for each sign: a non-negative code that reconstructs without rounding."""

    def __init__(self, d_in):
        eye = np.eye(d_in)
        super().__init__(np.concatenate([eye, -eye]))


class Fixed(Linear):
    """Returns the codes that it was given, row by row in order."""

    def __init__(self, codes_NF, W_dec):
        super().__init__(W_dec)
        self.codes_NF = torch.as_tensor(np.asarray(codes_NF), dtype=torch.float32)
        self.position = 0

    def encode(self, x_BD):
        start, self.position = self.position, self.position + len(x_BD)
        return self.codes_NF[start : self.position].clone()


def truth_of(directions, groups=(), represented=None, p=0.1):
    directions = np.asarray(directions, dtype=np.float32)
    represented = np.ones(len(directions), dtype=bool) if represented is None else np.asarray(represented, dtype=bool)
    sets = tuple(FeatureGroup(kind, tuple(members)) for kind, members in groups)
    return GroundTruth(directions, represented, np.full(len(directions), p), sets, p * len(directions))


def sparse_rows(directions, num_rows=400, p=0.2, seed=0):
    generator = np.random.default_rng(seed)
    directions = np.asarray(directions, dtype=np.float32)
    features = generator.random((num_rows, len(directions)), dtype=np.float32) * 0.9 + 0.1
    features *= generator.random(features.shape) < p
    return Rows(features @ directions, features)


def run(sae, rows, subject=None, *, scale=1.0, **options) -> Evaluation:
    subject = subject or Squares()
    return evaluate(sae, rows, scale=scale, subject=subject, baseline=subject.baseline(rows), **options)


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def random_unit(count, dimension, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))
