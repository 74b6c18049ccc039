"""The generated documents: current, complete, and true to the parser."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings

from f5_worker import deprecated, docs, endpoint_errors, errors, request
from f5_worker.errors import RequestError
from tests.job_inputs import job_inputs

ROOT = Path(__file__).parents[2]
WORKER = request.Worker(s3_prefixes=("voices/",))
AUDIO = "UklGRi4uLi5XQVZF"
VALIDATOR = jsonschema.Draft202012Validator(docs.schema())


@pytest.mark.parametrize("name", sorted(docs.render()))
def test_a_document_is_what_the_code_says(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == docs.render()[name], "run python -m f5_worker.docs"


def test_every_field_of_every_action_is_described():
    text = docs.render()["job-api.md"]
    for action, model in request.ACTIONS.items():
        section = text.partition(f"## action `{action}`")[2].partition("\n## ")[0]
        assert model.__doc__ in section
        for name in (model.names() | set(model.other_names)) - {"action"}:
            assert f"`{name}`" in section, (action, name)
    assert "|  |\n" not in text, "a field has no description"


def test_every_code_is_explained():
    text = docs.render()["errors.md"]
    kinds = [errors.WorkerError]
    for kind in kinds:
        kinds += [sub for sub in kind.__subclasses__() if sub.__module__ in {errors.__name__, endpoint_errors.__name__}]
    for kind in kinds[1:]:
        meaning, _, remedy = kind.__doc__.partition("\n\n")
        assert meaning.strip(), kind
        assert remedy.strip(), kind
        assert f"| `{kind.code}` |" in text


def examples():
    lines = docs.render()["job-api.md"].splitlines()
    return [json.loads(line)["input"] for line in lines if line.startswith('    {"input": {')]


@pytest.mark.parametrize("job_input", examples())
def test_an_example_of_the_document_is_a_good_request(job_input):
    if isinstance(job_input.get("ref_audio"), dict):
        job_input["ref_audio"]["base64"] = AUDIO
    assert request.parse(job_input)
    VALIDATOR.validate(job_input)


def test_there_are_examples():
    assert len(examples()) >= 4


@pytest.mark.parametrize(
    "job_input",
    [
        {"gen_text": "a", "nfe_step": 7, "cfg_strength": 2, "seed": 2**53 - 1},
        {"input": "a", "ref_audio": AUDIO, "ref_text": ""},
        {"input": "a", "ref_audio": {"s3_key": "voices/a.wav"}, "subtitles": ["srt", "ass"], "timestamps": "word"},
        {"segments": [{"text": "a", "voice": "b"}], "voices": {"b": {"ref_audio": {"url": "https://example.com/a"}}, "c": "c"}},
        {"action": "voices.create", "id": "anna", "audio": AUDIO},
        {"action": "batch", "requests": [{"input": "a"}]},
        {"text": "a", "local_voice": "a.wav", "return_word_timings": True, "timing_format": "vtt", "endpoint": "tts"},
        {"action": "outputs.get", "job_id": "x"},
        {"action": "health"},
    ],
)
def test_the_schema_takes_what_the_parser_takes(job_input):
    request.parse(job_input, WORKER)
    VALIDATOR.validate(job_input)


@pytest.mark.parametrize(
    "job_input",
    [
        {},
        {"input": 5},
        {"inptu": "a"},
        {"input": "a", "speed": 5},
        {"action": "dance"},
        {"action": "voices.get"},
        {"input": "a", "voice": "a/b"},
        [],
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(job_input):
    with pytest.raises(RequestError):
        request.parse(job_input, WORKER)
    assert not VALIDATOR.is_valid(job_input)


@settings(max_examples=100)
@given(job_inputs())
def test_nothing_that_the_parser_takes_is_against_the_schema(job_input):
    try:
        request.parse(job_input, WORKER)
    except RequestError:
        return
    if deprecated.FIELDS.keys() & job_input.keys() - {"timing_format"}:
        return  # they may stand for another action
    VALIDATOR.validate(_without_nulls(job_input))


def _without_nulls(value):
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value
