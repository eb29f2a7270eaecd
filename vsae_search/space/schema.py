"""The JSON Schema of the search-space file, from which an editor offers keys, values and their documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsae_search.space.catalog import hyper_parameters
from vsae_search.space.experiments import ExperimentSpace
from vsae_search.space.model import SearchSpace
from vsae_search.space.ranges import range_json_schema

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vsae_search.space.catalog import Catalog


def json_schema(catalog: Catalog) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the search-space file.

    Args:
        catalog: The known architectures; each becomes a key with its own hyper-parameters.

    Returns:
        A schema that depends on nothing outside itself; the same for the same catalog.
    """
    schema = SearchSpace.model_json_schema()
    properties = schema["properties"]
    shared: dict[str, Any] = {}
    architectures: dict[str, Any] = {}
    for name, config in sorted(catalog.items()):
        parameters = _parameters(config)
        architectures[name] = {
            "type": ["object", "null"],
            "description": _first_paragraph(config),
            "properties": parameters,
            "additionalProperties": False,
        }
        for parameter, alternatives in parameters.items():
            shared.setdefault(parameter, []).append(alternatives)
    properties["architectures"] |= {"properties": architectures, "additionalProperties": False, "minProperties": 1}
    properties["shared"] |= {
        "properties": {name: _merged(found) for name, found in sorted(shared.items())},
        "additionalProperties": False,
    }
    return _with_head(schema, "vsae_search search space")


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file that runs a toy experiment."""
    return _with_head(ExperimentSpace.model_json_schema(), "vsae_search toy experiment")


def _with_head(schema: dict[str, Any], title: str) -> dict[str, Any]:
    _drop_titles(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def _parameters(config: type[BaseModel]) -> dict[str, Any]:
    """A schema for the range of each hyper-parameter, with its description and its default."""
    schema = config.model_json_schema()
    definitions = schema.get("$defs", {})
    parameters = {}
    for name in hyper_parameters(config):
        scalar = _inline(schema["properties"][name], definitions)
        about = {key: scalar.pop(key) for key in ("description", "default") if key in scalar}
        scalar.pop("title", None)
        parameters[name] = {**about, "anyOf": range_json_schema(scalar)}
    return parameters


def _merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema for a hyper-parameter of several architectures; the first description is shown."""
    forms: list[Any] = []
    for alternatives in found:
        forms.extend(form for form in alternatives["anyOf"] if form not in forms)
    about = {"description": found[0]["description"]} if "description" in found[0] else {}
    return {**about, "anyOf": forms}


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its references replaced by what they refer to."""
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return {key: _inline(value, definitions) for key, value in schema.items()}


def _first_paragraph(config: type[BaseModel]) -> str:
    return " ".join((config.__doc__ or "").partition("\n\n")[0].split())


def _drop_titles(schema: Any) -> None:
    """Remove the titles that only repeat a name; an editor would show them instead of the description."""
    for value in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(value, dict):
            if isinstance(value.get("title"), str):
                del value["title"]
            _drop_titles(value)
        elif isinstance(value, list):
            _drop_titles(value)
