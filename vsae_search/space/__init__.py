"""The search-space file: schema, ranges, loading with line and column, JSON Schema."""

from vsae_search.space.catalog import Catalog
from vsae_search.space.experiments import (
    ExperimentSpace,
    GeometryExperiment,
    GeometryModel,
    PhaseTransitionExperiment,
    ToyRecipe,
    ToySetting,
)
from vsae_search.space.features import CopulaSpec, FeatureSet, FeatureSpec
from vsae_search.space.load import load_any, load_space
from vsae_search.space.model import SearchSpace
from vsae_search.space.ranges import ChoiceRange, ConstantRange, IntRange, LogRange, Range, UniformRange
from vsae_search.space.schema import experiment_schema, json_schema
from vsae_search.space.sections import (
    ActivationsSpec,
    ObjectivesSpec,
    ReferencePoint,
    ResourcesSpec,
    SearchSpec,
    TrackingSpec,
    TrainingSpec,
)
from vsae_search.space.subjects import DirectionsSubject, LanguageModelSubject, SubjectSpec, ToyModelSubject
from vsae_search.space.text import DatasetText, FilesText, PythonStdlibText, TextSpec, TokensText

__all__ = [
    "ActivationsSpec",
    "Catalog",
    "ChoiceRange",
    "ConstantRange",
    "CopulaSpec",
    "DatasetText",
    "DirectionsSubject",
    "ExperimentSpace",
    "FeatureSet",
    "FeatureSpec",
    "FilesText",
    "GeometryExperiment",
    "GeometryModel",
    "IntRange",
    "LanguageModelSubject",
    "LogRange",
    "ObjectivesSpec",
    "PhaseTransitionExperiment",
    "PythonStdlibText",
    "Range",
    "ReferencePoint",
    "ResourcesSpec",
    "SearchSpace",
    "SearchSpec",
    "SubjectSpec",
    "TextSpec",
    "TokensText",
    "ToyModelSubject",
    "ToyRecipe",
    "ToySetting",
    "TrackingSpec",
    "TrainingSpec",
    "UniformRange",
    "experiment_schema",
    "json_schema",
    "load_any",
    "load_space",
]
