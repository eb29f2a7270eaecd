"""Looking into one trained autoencoder: numbers first (analysis.json, latents.csv), then one offline page."""

from vsae_search.analysis.base import Analysis, Definition, Found, discover
from vsae_search.analysis.choose import Trained, default_uid, find_trained
from vsae_search.analysis.material import Material, Request, collect, gather
from vsae_search.analysis.write import AnalysisPaths, write_analysis

__all__ = [
    "Analysis",
    "AnalysisPaths",
    "Definition",
    "Found",
    "Material",
    "Request",
    "Trained",
    "collect",
    "default_uid",
    "discover",
    "find_trained",
    "gather",
    "write_analysis",
]
