"""The files that RunPod's Hub reads: valid by its documented schema, and true to this worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from f5_worker.manifest import load_model
from f5_worker.request import parse
from f5_worker.settings import DEFAULT_MODEL, Settings

ROOT = Path(__file__).parents[2]
TEXT = {"type": "string", "minLength": 1}
CUDA = {"type": "array", "items": {"type": "string", "pattern": r"^\d+\.\d+$"}, "minItems": 1, "uniqueItems": True}


def record(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


INPUT = record(
    {
        "name": TEXT,
        "type": {"enum": ["string", "number", "boolean", "huggingface"]},
        "description": TEXT,
        "default": {"type": ["string", "number", "boolean"]},
        "required": {"type": "boolean"},
        "advanced": {"type": "boolean"},
        "options": {"type": "array", "minItems": 1, "items": record({"label": TEXT, "value": {"type": "string"}}, "label", "value")},
        "min": {"type": "number"},
        "max": {"type": "number"},
        "trueValue": {"type": "string"},
        "falseValue": {"type": "string"},
    },
    "name",
    "type",
)
VARIABLE = {
    "oneOf": [record({"key": TEXT, "value": {"type": "string"}}, "key", "value"), record({"key": TEXT, "input": INPUT}, "key", "input")]
}
PRESET = record(
    {"name": TEXT, "defaults": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}}, "name", "defaults"
)
HUB = record(
    {
        "title": TEXT,
        "description": TEXT,
        "type": {"const": "serverless"},
        "category": {"enum": ["audio", "embedding", "language", "video", "image"]},
        "iconUrl": {"type": "string", "pattern": "^https://"},
        "config": record(
            {
                "runsOn": {"enum": ["GPU", "CPU"]},
                "containerDiskInGb": {"type": "integer", "minimum": 1},
                "gpuCount": {"type": "integer", "minimum": 1},
                "gpuIds": TEXT,
                "allowedCudaVersions": CUDA,
                "presets": {"type": "array", "items": PRESET},
                "env": {"type": "array", "items": VARIABLE},
            },
            "runsOn",
            "containerDiskInGb",
            "gpuCount",
            "gpuIds",
        ),
    },
    "title",
    "description",
    "type",
    "category",
    "config",
)
TEST = record({"name": TEXT, "input": {"type": "object"}, "timeout": {"type": "integer", "minimum": 1000}}, "name", "input")
TESTS = record(
    {
        "tests": {"type": "array", "items": TEST, "minItems": 1},
        "config": record(
            {
                "gpuTypeId": TEXT,
                "gpuCount": {"type": "integer", "minimum": 1},
                "allowedCudaVersions": CUDA,
                "env": {"type": "array", "items": record({"key": TEXT, "value": {"type": "string"}}, "key", "value")},
            },
            "gpuTypeId",
            "gpuCount",
        ),
    },
    "tests",
    "config",
)


def load(name: str) -> dict[str, Any]:
    return json.loads((ROOT / ".runpod" / name).read_text(encoding="utf-8"))


@pytest.fixture
def hub() -> dict[str, Any]:
    return load("hub.json")


@pytest.fixture
def known_variables() -> set[str]:
    read: set[str] = set()
    Settings.from_env(
        {"S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}, on_read=lambda name, _default: read.add(name)
    )
    return read


@pytest.mark.parametrize(("name", "schema"), [("hub.json", HUB), ("tests.json", TESTS)])
def test_the_file_follows_the_documented_schema(name, schema):
    jsonschema.validate(load(name), schema)


@pytest.mark.parametrize("broken", [{"category": "speech"}, {"type": "pod"}, {"icon": "x"}, {"config": {"runsOn": "GPU"}}])
def test_the_schema_refuses_what_the_hub_refuses(hub, broken):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(hub | broken, HUB)


def test_every_offered_variable_is_one_that_the_worker_reads(hub, known_variables):
    offered = {variable["key"] for variable in hub["config"]["env"]} | {variable["key"] for variable in load("tests.json")["config"]["env"]}
    assert offered <= known_variables


def test_presets_set_only_what_the_form_offers(hub):
    offered = {variable["key"] for variable in hub["config"]["env"]}
    assert {name for preset in hub["config"]["presets"] for name in preset["defaults"]} <= offered


def test_the_forms_defaults_are_valid_settings(hub):
    inputs = {variable["key"]: variable["input"] for variable in hub["config"]["env"]}
    Settings.from_env({key: value["trueValue"] if value["default"] is True else str(value["default"]) for key, value in inputs.items()})


def test_the_container_disk_holds_the_weights_twice(hub):
    weights_bytes = sum(file.size_bytes for file in load_model(DEFAULT_MODEL).files)
    assert hub["config"]["containerDiskInGb"] * 1e9 > 2 * weights_bytes


@pytest.mark.parametrize("test", load("tests.json")["tests"], ids=lambda test: test["name"])
def test_the_hubs_test_jobs_are_valid_requests(test):
    parse(test["input"])
