"""The JSON schema that editors use: complete, described, and of one mind with the reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from acquisition.recipe import json_schema, parse_recipe, ready_made
from acquisition.steps import VERBS
from drivers import document
from drivers.errors import DocumentError

SCHEMA = json_schema()
KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "examples", "default", "type", "enum", "const", "pattern",
    "minimum", "maximum", "minLength", "maxLength", "minProperties", "maxProperties", "required", "properties",
    "additionalProperties", "items", "anyOf", "oneOf", "dependentRequired",
}  # fmt: skip
TYPES = {"string": str, "object": dict, "array": list, "boolean": bool, "integer": int}


def faults(value: Any, schema: Any, at: str = "") -> Iterator[str]:
    """Yield where a value breaks a schema: as much of the standard as the schema of recipes uses."""
    if isinstance(schema, bool):
        yield from () if schema else (f"{at}: not allowed",)
        return
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        yield from faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    kind = TYPES.get(schema.get("type"), object)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        yield f"{at}: not of type {schema['type']}"
        return
    yield from faults_of_choice(value, schema, at)
    if isinstance(value, str):
        yield from faults_of_text(value, schema, at)
    elif isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: out of bounds"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(item, schema.get("items", True), f"{at}[{index}]")
    elif isinstance(value, dict):
        yield from faults_of_mapping(value, schema, at)


def faults_of_choice(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{at}: not one of the values"
    for word, enough in (("anyOf", lambda fitting: fitting > 0), ("oneOf", lambda fitting: fitting == 1)):
        choices = schema.get(word, ())
        if choices and not enough(sum(not list(faults(value, choice, at)) for choice in choices)):
            yield f"{at}: does not fit {word}"


def faults_of_text(value: str, schema: dict[str, Any], at: str) -> Iterator[str]:
    if not re.search(schema.get("pattern", ""), value):
        yield f"{at}: {value!r} does not match"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: too short or too long"


def faults_of_mapping(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        yield f"{at}: too few or too many keys"
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{at}: {key} is missing"
    for key, needed in schema.get("dependentRequired", {}).items():
        if key in value and not set(needed) <= value.keys():
            yield f"{at}: {key} needs {needed}"
    for key, item in value.items():
        yield from faults(item, properties.get(key, schema.get("additionalProperties", True)), f"{at}.{key}")


@pytest.mark.parametrize("name", sorted(ready_made()))
def test_ready_made_recipes_fit(name: str) -> None:
    assert list(faults(document.read(ready_made()[name]).data, SCHEMA)) == []


def test_every_verb_fits() -> None:
    text = """\
name: a night
description: of everything
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}
limits: {heater: 900 degC, pressure: 1e2 Pa, dose: 50 kC/m**2}
steps:
  - note: hello
  - set: {column.focus: 8.01 mm, column.stigmator_x: -5 %}
  - gas: {}
  - ramp: {heater: 800 °C, rate: 10 K/min, tolerance: 2 K, at_most: 1 h}
  - purge: {N2: 20 sccm, Ar: 1 sccm, for: 5 min}
  - imaging: {pixels: {rows: 64, columns: 32}}
    dark: 2
  - frame: true
  - gas: {O2: 5 sccm}
    series: {every: 30 s, count: 9, stop_when: {roughness: below 20 nm}}
    on_interruption: safe
  - repeat: 2
    name: twice
    steps:
      - hold: .5 min
      - frames: 2
      - autofocus: {range: 40 um, frames: 9, pixels: 96, dwell_time: 2 us, at: {x: -3 um, y: 1 mm}, tolerance: 1 um}
      - stigmation: {range: 50 %, at: {}}
      - balance: {dark: 2 %, bright: 60 %, percentile: 99.5 %, rounds: 4}
      - beam_check: {current: 1 nA, within: 5 %, readings: 3, otherwise: warn}
      - series:
          every: {at_most: 1 min, at_least: 9 s, faster_when: {coverage_rate: above 0.02 /min}, otherwise: at_least}
          for: 1 h
          stop_when: {flagged: above 50 %, within: 5 min}
          correct_drift: {every: 10, by: stage, limit: 2 um, anchor: previous}
      - when: {coverage: above 0.5, within: 60 s, otherwise: wait, at_most: 1 min}
        then: [{hold: 1 s}]
        else: [{hold: 2 s}]
"""
    data = parse_recipe(text).document.data
    assert list(faults(data, SCHEMA)) == []
    assert {verb for step in (*data["steps"], *data["steps"][-1]["steps"]) for verb in VERBS if verb in step} == set(
        VERBS
    )


@pytest.mark.parametrize(
    "step",
    [
        "hodl: 5 min", "hold: 5", "hold: [5 min]", "name: x", "repeat: 3", "steps: [{hold: 1 s}]", "repeat: 0",
        "frame: false", "dark: 0", "ramp: {heater: 5 K}", "series: {every: 3 s}",
        "series: {every: 3 s, for: 2 h, count: 3}",
        "series: {every: 3 s, count: 3, stop_when: {}}", "series: {every: 3 s, count: 3, stop_when: {coverage: 0.9}}",
        "series: {every: 3 s, count: 3, stop_when: {speed: above 0.9}}", "set: {}",
        "series: {every: 3 s, count: 3, stop_when: {within: 1 min}}",
        "series: {every: 3 s, count: 3, stop_when: {coverage: above 0.5, flagged: above 0.5}}",
        "series: {every: {at_most: 9 s}, count: 3}", "series: {every: {}, count: 3}",
        "series: {every: 3 s, count: 3, correct_drift: {by: hand, every: 2}}",
        "{when: {coverage: above 0.5, within: 1 s, otherwise: never}, then: [{hold: 1 s}]}",
        "{when: {coverage: above 0.5, otherwise: else}, then: [{hold: 1 s}]}", "then: [{hold: 1 s}]",
        "{hold: 1 s, else: [{hold: 1 s}]}", "when: {coverage: above 0.5, within: 1 s, otherwise: else}",
        "autofocus: {frames: 2}", "autofocus: {at: {z: 1 um}}", "stigmation: true", "beam_check: {}",
        "balance: {rounds: 1}",
        "{hold: 1 s, on_interruption: never}",
        "{frame: true, imaging: {pixels: 5}}", "{frame: true, imaging: {pixels: {rows: 64}}}", "gas: 5 sccm",
        "purge: {N2: 5 sccm}",
    ],
)  # fmt: skip
def test_schema_and_reader_refuse_alike(step: str) -> None:
    text = (
        "name: a night\n"
        "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}\n"
        f"steps:\n  - {step}\n"
    )
    with pytest.raises(DocumentError):
        parse_recipe(text)
    assert list(faults(document.parse(text).data, SCHEMA))


def parts(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, item in schema.get("properties", {}).items():
        yield f"{at}.{key}", item
    for name, item in schema.get("$defs", {}).items():
        yield from parts(item, name)


def test_every_key_says_what_it_means_and_how_it_is_written() -> None:
    silent = [key for key, part in parts(SCHEMA) if not part.get("description")]
    assert silent == []
    without = {key for key, part in parts(SCHEMA) if not part.get("examples") and "enum" not in part}
    assert without <= {
        ".description", ".imaging", ".limits", ".steps", "Step.steps", "Step.then", "Step.else", "Step.frame",
        "Pixels.rows", "Pixels.columns",
    }  # fmt: skip


def test_examples_in_the_schema_fit_it() -> None:
    for key, part in parts(SCHEMA):
        for example in part.get("examples", ()):
            assert list(faults(example, part, key)) == []


def test_the_schema_is_json_without_null_and_marks() -> None:
    text = json.dumps(SCHEMA)
    assert json.loads(text) == SCHEMA
    assert '"null"' not in text
    assert "``" not in text
    assert SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert {"name", "steps"} == set(SCHEMA["required"])
