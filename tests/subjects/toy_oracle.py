"""The toy model of superposition in NumPy alone, with gradients written by hand: the oracle for the torch one.

Basic model: h = W x, x' = ReLU(W^T h + b). Neuron model: h = ReLU(W x). Linear model: as basic, without the ReLU on x'.
The loss is the mean over samples and features of I_i (x_i - x'_i)^2.
"""

from __future__ import annotations

import numpy as np


def forward(x_BM, W_DM, b_M, model):
    """Hidden activations before their ReLU, and the read-out before its own."""
    h_BD = x_BM @ W_DM.T
    active_BD = np.maximum(h_BD, 0) if model == "neuron" else h_BD
    return h_BD, active_BD @ W_DM + b_M


def output(x_BM, W_DM, b_M, model):
    _, z_BM = forward(x_BM, W_DM, b_M, model)
    return z_BM if model == "linear" else np.maximum(z_BM, 0)


def loss(x_BM, W_DM, b_M, importance_M, model):
    return float(np.mean(importance_M * (x_BM - output(x_BM, W_DM, b_M, model)) ** 2))


def gradients(x_BM, W_DM, b_M, importance_M, model):
    """d loss / dW and d loss / db, sample by sample and term by term: slow, and hard to get wrong."""
    h_BD, z_BM = forward(x_BM, W_DM, b_M, model)
    dW_DM, db_M = np.zeros_like(W_DM), np.zeros_like(b_M)
    for x_M, h_D, z_M in zip(x_BM, h_BD, z_BM, strict=True):
        out_M = z_M if model == "linear" else np.maximum(z_M, 0)
        dz_M = 2 * importance_M * (out_M - x_M) / x_BM.size
        if model != "linear":
            dz_M = np.where(z_M > 0, dz_M, 0)
        active_D = np.maximum(h_D, 0) if model == "neuron" else h_D
        dh_D = W_DM @ dz_M
        if model == "neuron":
            dh_D = np.where(h_D > 0, dh_D, 0)
        db_M += dz_M
        dW_DM += np.outer(active_D, dz_M) + np.outer(dh_D, x_M)  # W reads out and W embeds
    return dW_DM, db_M


class Adam:
    """Adam without weight decay, as in Kingma and Ba, 2015, algorithm 1."""

    def __init__(self, *parameters, betas=(0.9, 0.999), eps=1e-8):
        self.parameters, self.betas, self.eps, self.step_number = parameters, betas, eps, 0
        self.first = [np.zeros_like(p) for p in parameters]
        self.second = [np.zeros_like(p) for p in parameters]

    def step(self, lr, grads):
        self.step_number += 1
        beta1, beta2 = self.betas
        for p, g, m, v in zip(self.parameters, grads, self.first, self.second, strict=True):
            m += (1 - beta1) * (g - m)
            v += (1 - beta2) * (g**2 - v)
            m_hat, v_hat = m / (1 - beta1**self.step_number), v / (1 - beta2**self.step_number)
            p -= lr * m_hat / (np.sqrt(v_hat) + self.eps)
