"""How well the reconstruction agrees with the activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vsae_search.evaluation.base import Metric, MetricInfo

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Batch, Context, Values
    from vsae_search.evaluation.summary import Summary


class Spread:
    """Mean and sum of squared distances from the mean of a stream of rows, merged chunk by chunk in float64.

    Unlike sum ||x||^2 - N ||mean||^2 it loses no digits when the mean is large against the spread.

    Reference: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983, equation 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.squares = 0.0
        self._mean_D: torch.Tensor | None = None

    def update(self, x_BD: torch.Tensor) -> None:
        """Take in one chunk of float64 rows."""
        mean_D = x_BD.mean(dim=0)
        squares = float((x_BD - mean_D).square_().sum())
        if self._mean_D is None:
            self.count, self.squares, self._mean_D = len(x_BD), squares, mean_D
            return
        total = self.count + len(x_BD)
        shift_D = mean_D - self._mean_D
        self.squares += squares + float(shift_D.square().sum()) * self.count * len(x_BD) / total
        self._mean_D = self._mean_D + shift_D * (len(x_BD) / total)
        self.count = total


class Reconstruction(Metric):
    """Agreement of the reconstruction xhat with the activation x; e = x - xhat, sums over all N evaluation rows.

    All are free of scale. FVU is centred on the mean of the whole evaluation set and never averaged over chunks.
    Rows with x = 0 (a toy sample without features) have no direction and are left out of cosine and norm ratio; a
    reconstruction of 0 has cosine 0. Numbers whose denominator vanishes are left out: FVU when all rows are equal,
    NMSE, cosine and norm ratio when all are 0, relative bias when the mean of x . xhat is not positive.

    Reference: relative bias is equation 10 of Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse
    Autoencoders", 2024.
    """

    infos = (
        MetricInfo("fvu", "1", "lower", "Fraction of variance unexplained: sum ||e||^2 / sum ||x - mean(x)||^2."),
        MetricInfo(
            "fvu_centred",
            "1",
            "lower",
            "As fvu with centred residuals: sum ||e - mean(e)||^2 / sum ||x - mean(x)||^2; blind to a constant error.",
        ),
        MetricInfo("nmse", "1", "lower", "Normalised squared error: sum ||e||^2 / sum ||x||^2."),
        MetricInfo("cosine", "1", "higher", "Mean over rows of the cosine between x and xhat."),
        MetricInfo("norm_ratio", "1", "none", "Mean over rows of ||xhat|| / ||x||; 1 is best."),
        MetricInfo("relative_bias", "1", "none", "mean ||xhat||^2 / mean x . xhat; 1 is best, below 1 xhat is shrunk."),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._x, self._e = Spread(), Spread()
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._cosine = self._ratio = 0.0
        self._nonzero_rows = 0

    def update(self, batch: Batch) -> None:
        """Take in one chunk."""
        x_BD, xhat_BD = batch.x_BD.double(), batch.xhat_BD.double()
        e_BD = x_BD - xhat_BD
        self._x.update(x_BD)
        self._e.update(e_BD)
        xx_B, hh_B, xh_B = (x_BD * x_BD).sum(dim=1), (xhat_BD * xhat_BD).sum(dim=1), (x_BD * xhat_BD).sum(dim=1)
        self._sums += torch.stack([(e_BD * e_BD).sum(dim=1).sum(), xx_B.sum(), hh_B.sum(), xh_B.sum()]).cpu()
        nonzero_B = xx_B > 0
        xx_B, hh_B, xh_B = xx_B[nonzero_B], hh_B[nonzero_B], xh_B[nonzero_B]
        self._nonzero_rows += len(xx_B)
        self._cosine += float(torch.where(hh_B > 0, xh_B / (xx_B * hh_B).sqrt(), 0.0).sum())
        self._ratio += float((hh_B / xx_B).sqrt().sum())

    def result(self, summary: Summary) -> Values:
        """Return the ratios of the sums."""
        del summary
        ee, xx, hh, xh = self._sums.tolist()
        found: Values = {}
        if self._x.squares > 0:
            found["fvu"] = ee / self._x.squares
            found["fvu_centred"] = self._e.squares / self._x.squares
        if self._nonzero_rows:
            found["nmse"] = ee / xx
            found["cosine"] = self._cosine / self._nonzero_rows
            found["norm_ratio"] = self._ratio / self._nonzero_rows
        if xh > 0:
            found["relative_bias"] = hh / xh
        return found
