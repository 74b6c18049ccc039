"""OpenAI's shapes: the official client against the platform's route, a queue and the worker's service."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
import soundfile

from f5_worker import openai_api, request
from f5_worker.errors import EngineError, FetchFailed, OutOfMemory, RequestError
from f5_worker.service import Service
from f5_worker.settings import Settings
from tests.fakes.memory_store import MemoryStore
from tests.fakes.openai_bridge import OpenAIBridge, in_process
from tests.fakes.speaker import FakeEngine

MODEL = "F5TTS_v1_Base"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def bridge(engine: FakeEngine) -> Iterator[OpenAIBridge]:
    service = Service(engine, Settings(), MemoryStore(), boot=dict)
    with OpenAIBridge(in_process(service.handle)) as running:
        yield running


@pytest.fixture
def client(bridge: OpenAIBridge) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=bridge.base_url, api_key="rpa_TEST", max_retries=0) as made:
        yield made


def test_speech_comes_as_json_with_base64_audio_in_openais_default_format(client, bridge):
    answer = client.audio.speech.create(model="tts-1", voice="default", input="Hello.", speed=1.5).json()
    assert (answer["object"], answer["format"], answer["voice"]) == ("audio.speech", "mp3", "default")
    with soundfile.SoundFile(io.BytesIO(base64.b64decode(answer["audio"]["base64"]))) as sound:
        assert sound.format == "MP3"
    assert bridge.jobs[0]["openai_route"] == "/v1/audio/speech"


def test_what_the_client_asks_for_reaches_the_engine(client, engine):
    extra = {"seed": 7, "quality": "fast", "delivery": "url"}
    answer = client.audio.speech.create(
        model=MODEL, voice={"id": "default"}, input="Hello.", response_format="wav", speed=2.0, stream_format="audio", extra_body=extra
    ).json()
    _, _, options, _ = engine.seen[0]
    assert (options.speed, options.seed, options.nfe_step) == (2.0, 7, 7)
    assert (answer["format"], answer["seed"]) == ("wav", 7)
    assert "url" in answer["audio"]


def test_the_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_the_voices_are_listed_and_read(client):
    listed = client.get("/audio/voices", cast_to=dict)
    assert listed["object"] == "list"
    assert [voice["id"] for voice in listed["data"]] == ["default"]
    assert client.get("/audio/voices/default", cast_to=dict)["id"] == "default"


def test_a_voice_is_created_by_a_body(client):
    wrong = {"voice": "anna", "ref_audio": "bm8gYXVkaW8=", "ref_text": "Some words that are spoken.", "action": "health"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/audio/voices", body=wrong, cast_to=dict)
    assert caught.value.code == "reference_invalid"


@pytest.mark.parametrize(
    ("asked_for", "kind", "code", "param"),
    [
        ({"input": ""}, openai.BadRequestError, "text_empty", "input"),
        ({"speed": 9.0}, openai.BadRequestError, "invalid_request", "speed"),
        ({"response_format": "midi"}, openai.BadRequestError, "invalid_request", "response_format"),
        ({"model": "other"}, openai.BadRequestError, "invalid_request", "model"),
        ({"voice": "alloy"}, openai.NotFoundError, "voice_not_found", None),
        ({"voice": {"id": "default", "x": 1}}, openai.BadRequestError, "invalid_request", "voice"),
        ({"instructions": "whisper"}, openai.BadRequestError, "invalid_request", "instructions"),
        ({"stream_format": "sse"}, openai.BadRequestError, "invalid_request", "stream_format"),
        ({"extra_body": {"pitch": 2}}, openai.BadRequestError, "invalid_request", "pitch"),
    ],
)
def test_a_wrong_call_is_an_error_of_the_client_with_its_code_and_field(client, engine, asked_for, kind, code, param):
    with pytest.raises(kind) as caught:
        client.audio.speech.create(**{"model": "tts-1", "voice": "default", "input": "Hello."} | asked_for)
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert engine.seen == []


@pytest.mark.parametrize(
    ("error", "status"), [(EngineError("the model failed"), 500), (OutOfMemory("no room"), 503), (FetchFailed("slow"), 503)]
)
def test_an_error_of_the_worker_is_an_error_of_the_server(client, engine, error, status):
    engine.error = error
    with pytest.raises(openai.InternalServerError) as caught:
        client.audio.speech.create(model="tts-1", voice="default", input="Hello.")
    assert (caught.value.status_code, caught.value.type) == (status, "server_error")


def test_a_multipart_upload_does_not_pass_the_route(client):
    with pytest.raises(openai.APIStatusError):
        client.audio.voices.create(audio_sample=b"RIFF", consent="cons_1", name="anna")


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/audio", "/v1/audio/speech/x", "/v1/modelsx", "", None, 5, ["/v1/models"]])
def test_an_unknown_route_is_refused_by_the_names_of_those_that_are_served(route):
    with pytest.raises(RequestError, match=r"openai_route: this worker serves /v1/audio/speech"):
        openai_api.to_request(route, {})


@pytest.mark.parametrize("given", [[], "Hello.", 5])
def test_an_input_that_is_no_object_is_refused(given):
    with pytest.raises(RequestError, match="openai_input: must be an object"):
        openai_api.to_request("/v1/audio/speech", given)


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "tts-1-1106", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"])
def test_openais_models_stand_for_the_workers_own(model):
    assert "model" not in openai_api.to_request("/v1/audio/speech", {"model": model, "input": "a"})
    assert openai_api.to_request("/v1/audio/speech", {"model": "F5TTS_Base", "input": "a"})["model"] == "F5TTS_Base"


def test_a_bucket_beside_the_call_takes_the_speech_by_url_and_concerns_no_other_route():
    spoken = openai_api.to_request("/v1/audio/speech", {"input": "a"}, {"bucketName": "b"})
    assert (spoken["s3Config"], spoken["delivery"]) == ({"bucketName": "b"}, "auto")
    assert openai_api.to_request("/v1/audio/speech", {"input": "a", "delivery": "url"}, {"bucketName": "b"})["delivery"] == "url"
    assert openai_api.to_request("/v1/models", None, {"bucketName": "b"}) == {"action": "models.list"}
    assert openai_api.to_request("/v1/audio/voices", None, {"bucketName": "b"}) == {"action": "voices.list"}


def test_a_route_decides_the_action_and_not_the_body():
    assert openai_api.to_request("/v1/audio/speech", {"action": "voices.delete", "input": "a"})["action"] == "speech"
    assert openai_api.to_request("/v1/models", {"action": "health"}) == {"action": "models.list"}
    assert openai_api.to_request("/v1/audio/voices", {"action": "voices.delete", "voice": "a"})["action"] == "voices.create"


@pytest.mark.parametrize(("body", "field"), [({"ref_text": "words"}, "ref_text"), ({"voice": "bob"}, "voice")])
def test_a_body_that_a_voice_has_no_use_for_is_refused(body, field):
    with pytest.raises(RequestError, match=field):
        request.parse(openai_api.to_request("/v1/audio/voices/anna", body))


@pytest.mark.parametrize("route", ["/v1/audio/voices/", "/v1/audio/voices?limit=5", "/v1/audio/voices"])
def test_a_query_or_a_slash_at_the_end_changes_nothing(route):
    assert openai_api.to_request(route, None) == {"action": "voices.list"}


def test_every_call_of_a_route_is_one_that_the_parser_knows():
    calls = [
        ("/v1/audio/speech", {"input": "a"}),
        ("/v1/models", None),
        ("/v1/models/x", {}),
        ("/v1/audio/voices", {}),
        ("/v1/audio/voices/a", {}),
    ]
    parsed = [request.parse(openai_api.to_request(*call)) for call in calls]
    assert [type(asked) for asked in parsed] == [
        request.Speech,
        request.ModelsList,
        request.ModelsList,
        request.VoicesList,
        request.VoicesGet,
    ]
