"""Whether the decoder rows fall into clusters that are the true sets.

Shapes: A alive latents, M represented features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vsae_search.evaluation.agreement import agreement, entropy
from vsae_search.evaluation.base import Metric, MetricInfo
from vsae_search.evaluation.clustering import spectral_clusters

if TYPE_CHECKING:
    from vsae_search.evaluation.base import Context, Values
    from vsae_search.evaluation.summary import Summary

_MAX_LATENTS = 512
_SEED = 13


class SetClusters(Metric):
    """Spectral clustering of the alive unit decoder rows into as many clusters as there are true sets.

    The affinity is max(0, cos) and the number of clusters C the number of true sets, a represented feature outside
    the sets being one of its own (at most A clusters). cluster_size_entropy is -sum pi log pi / log C of the cluster
    sizes: 1 for equal sizes. The other four compare the clusters with the set of each latent's closest feature
    (largest cosine; |cos| for a signed code). A fixed random choice of 512 latents stands for more. Left out without
    true sets, with fewer than two clusters, or when every latent is dead.

    Reference: Ng, Jordan and Weiss, 2001 (clustering); Rosenberg and Hirschberg, 2007 (V-measure); Vinh et al., 2010
    (AMI).
    """

    infos = (
        MetricInfo("cluster_size_entropy", "1", "none", "Entropy of the sizes of the decoder clusters, / log C."),
        MetricInfo("cluster_homogeneity", "1", "higher", "1 - H(set | cluster) / H(set): clusters hold one set only."),
        MetricInfo("cluster_completeness", "1", "higher", "1 - H(cluster | set) / H(cluster): sets are not divided."),
        MetricInfo(
            "cluster_v_measure", "1", "higher", "Harmonic mean of cluster_homogeneity and cluster_completeness."
        ),
        MetricInfo("cluster_ami", "1", "higher", "Adjusted mutual information of clusters and sets; 0 is chance."),
    )

    @classmethod
    def applies(cls, context: Context) -> bool:
        """Return whether any features were drawn together."""
        return context.truth is not None and bool(context.truth.groups)

    def result(self, summary: Summary) -> Values:
        """Return the entropy of the cluster sizes and the agreement with the sets."""
        truth = summary.truth
        assert truth is not None
        chosen = np.arange(summary.num_alive)
        if len(chosen) > _MAX_LATENTS:
            chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, size=_MAX_LATENTS, replace=False))
        num_clusters = min(truth.num_sets, len(chosen))
        if num_clusters < 2:
            return {}
        found_A = spectral_clusters(summary.w_AD[chosen], num_clusters, seed=_SEED)
        true_A = truth.set_M[summary.similarity_MA[:, chosen].argmax(axis=0)]
        score = agreement(true_A, found_A)
        size_C = np.bincount(found_A, minlength=num_clusters).astype(np.float64)
        return {
            "cluster_size_entropy": entropy(size_C) / float(np.log(num_clusters)),
            "cluster_homogeneity": score.homogeneity,
            "cluster_completeness": score.completeness,
            "cluster_v_measure": score.v_measure,
            "cluster_ami": score.ami,
        }
