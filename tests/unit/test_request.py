"""The request parser: OpenAI's names, F5's aliases, every problem named at once, no value guessed or coerced."""

from __future__ import annotations

import base64
import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import audio, fields, request
from f5_worker.errors import RequestError, TextEmpty, TextTooLong
from tests.job_inputs import MARK, MAX_REFUSAL_CHARS, job_inputs, marked_inputs, refusal_of

AUDIO = base64.b64encode(b"RIFF....WAVE").decode()
WITH_BUCKET = request.Worker(model="F5TTS_v1_Base", s3_prefixes=("voices/", "output/"))
S3 = {"accessId": "key-id-s3cr3t", "accessSecret": "s3cr3t", "bucketName": "theirs", "endpointUrl": "https://s3.example.com"}


def refused(job_input, worker=WITH_BUCKET) -> RequestError:
    with pytest.raises(RequestError) as caught:
        request.parse(job_input, worker)
    return caught.value


def test_a_text_is_enough():
    asked = request.parse({"input": "Hello."})
    assert isinstance(asked, request.Speech)
    assert (asked.input, asked.response_format, asked.speed, asked.nfe_step, asked.delivery) == ("Hello.", "wav", 1.0, 32, "auto")


@pytest.mark.parametrize("name", ["input", "text", "gen_text"])
def test_the_text_has_three_names(name):
    assert request.parse({name: "Hello."}).input == "Hello."


def test_two_names_for_one_field_are_refused():
    assert "give 'input' alone" in str(refused({"input": "a", "gen_text": "b"}))


def test_null_counts_as_not_given():
    asked = request.parse({"input": "a", "text": None, "speed": None, "voice": None})
    assert (asked.speed, asked.voice) == (1.0, None)


def test_every_problem_is_named_in_one_message():
    error = refused({"inptu": "a", "speed": "fast", "seed": True, "nfe_step": 3.0, "cfg_strength": 99, "ref_text": "words"})
    for name in ("input", "inptu", "speed", "seed", "nfe_step", "cfg_strength", "ref_audio"):
        assert f"{name}: " in str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", 5),
        ("input", ["a"]),
        ("speed", "1.0"),
        ("speed", True),
        ("speed", float("nan")),
        ("speed", float("inf")),
        ("speed", 0.2),
        ("speed", 4.1),
        ("seed", 1.0),
        ("seed", False),
        ("seed", -1),
        ("seed", 2**53),
        ("nfe_step", "32"),
        ("nfe_step", 0),
        ("nfe_step", 65),
        ("response_format", "midi"),
        ("sample_rate", 7_999),
        ("sample_rate", "24000"),
        ("bitrate_kbps", 7),
        ("duration", 0),
        ("quality", "best"),
        ("remove_silence", "yes"),
        ("remove_silence", 1),
        ("normalize_text", "no"),
        ("loudness", -4),
        ("timestamps", "phoneme"),
        ("subtitles", "srt"),
        ("subtitles", []),
        ("subtitles.0", ["txt"]),
        ("stream_format", "sse"),
        ("idempotency_key", "two words"),
        ("language", "English"),
        ("allow_tags", "true"),
        ("model", ""),
        ("voices", {}),
        ("voices", ["anna"]),
        ("s3Config", "mine"),
        ("delivery", "mail"),
        ("url_expires_in", 59),
        ("url_expires_in", 604_801),
        ("voice", ""),
        ("voice", 3),
        ("target_rms", 0),
        ("cross_fade_duration", -0.1),
        ("fade", 1.1),
        ("ref_text", 3),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_field(field, value):
    error = refused({"input": "a"} | {field.partition(".")[0]: value})
    assert error.code == "INVALID_REQUEST"
    assert f"{field}: " in str(error)


def test_a_whole_number_is_good_where_a_number_is_asked_for():
    assert request.parse({"input": "a", "speed": 2}).speed == 2.0


def test_every_format_that_can_be_encoded_can_be_asked_for():
    assert set(get_args(request.Speech.model_fields["response_format"].annotation)) == set(audio.CONTENT_TYPES)


@pytest.mark.parametrize("job_input", [{}, {"segments": [{"text": " "}]}, {"input": ""}, {"input": " \n\t"}, {"input": None}])
def test_no_text_has_its_own_code(job_input):
    assert isinstance(refused(job_input), TextEmpty)


def test_too_much_text_has_its_own_code():
    assert isinstance(refused({"input": "a" * 100_000}), TextTooLong)
    assert request.parse({"input": "a" * fields.MAX_TEXT_CHARS})


def test_mixed_problems_have_the_general_code():
    assert refused({"input": "", "speed": 9}).code == "INVALID_REQUEST"


def test_long_base64_is_decoded_in_pieces_so_that_other_threads_run_on(monkeypatch):
    data, decode, pieces = bytes(range(256)) * 12_000, base64.b64decode, []
    monkeypatch.setattr(fields.base64, "b64decode", lambda text, **given: pieces.append(len(text)) or decode(text, **given))
    asked = request.parse({"input": "a", "ref_audio": base64.b64encode(data).decode(), "ref_text": "w"})
    assert asked.ref_audio.data == data
    assert (len(pieces), max(pieces)) == (4, 1 << 20)


@settings(max_examples=300)
@given(st.binary(max_size=12), st.text("AB=", max_size=6))
def test_of_base64_in_pieces_no_more_is_accepted_than_as_a_whole(data, appended):
    text = base64.b64encode(data).decode() + appended
    asked = {"input": "a", "ref_audio": {"base64": text}, "ref_text": "w"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fields, "_PIECE_CHARS", 4)
        refusal = refusal_of(asked, WITH_BUCKET)
        decoded = None if refusal else request.parse(asked).ref_audio.data
    if refusal:
        assert appended or not data
    else:
        assert decoded == base64.b64decode(text, validate=True)


@pytest.mark.parametrize("given_audio", [AUDIO, {"base64": AUDIO}, f"data:audio/wav;base64,{AUDIO}", AUDIO[:8] + "\n" + AUDIO[8:]])
def test_a_reference_comes_as_base64_in_three_ways(given_audio):
    asked = request.parse({"input": "a", "ref_audio": given_audio, "ref_text": "words"})
    assert asked.ref_audio.data == b"RIFF....WAVE"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ref_text": "words"}, "ref_audio: is missing"),
        ({"ref_audio": AUDIO, "ref_text": "w", "voice": "default"}, "voice: excludes 'ref_audio'"),
        ({"ref_audio": "not base64!", "ref_text": "w"}, "ref_audio.base64: is not valid base64"),
        ({"ref_audio": "", "ref_text": "w"}, "ref_audio.base64: holds no audio"),
        ({"ref_audio": {}}, "ref_audio: give exactly one of 'url', 'base64' and 's3_key'"),
        ({"ref_audio": {"base64": AUDIO, "url": "https://example.com/a.wav"}}, "ref_audio: give exactly one of"),
        ({"ref_audio": {"url": ""}}, "ref_audio.url: must not be empty"),
        ({"ref_audio": {"url": "https://example.com/" + "a" * 5_000}}, "ref_audio.url: must have at most 4096 characters"),
        ({"ref_audio": 7, "ref_text": "w"}, "ref_audio: must be an object"),
        ({"ref_audio": {"base64": AUDIO, "gain": 2}, "ref_text": "w"}, "ref_audio.gain: unknown field"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(fields, named):
    assert named in str(refused({"input": "a"} | fields))


def test_a_reference_is_capped_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(fields.base64, "b64decode", lambda *_a, **_k: pytest.fail("decoded"))
    too_long = "A" * (fields.MAX_REFERENCE_BYTES * 4 // 3 + 5)
    assert "more than" in str(refused({"input": "a", "ref_audio": too_long, "ref_text": "w"}))


@pytest.mark.parametrize("job_input", ["Hello.", None, 3, ["Hello."], True])
def test_an_input_that_is_no_object_is_told_what_to_send(job_input):
    assert '{"input": {"input": "Hello."}}' in str(refused(job_input))


def test_the_action_chooses_the_fields():
    assert isinstance(request.parse({"action": "health"}), request.Health)
    assert "input: unknown field" in str(refused({"action": "health", "input": "a"}))
    assert "must be one of speech, batch" in str(refused({"action": "dance"}))
    assert "must be one of speech, batch" in str(refused({"action": ["health"]}))
    assert str(refused({"action": "speach"})).endswith("; did you mean 'speech'?")


def test_half_a_surrogate_pair_is_refused_because_it_cannot_be_sent_back():
    assert "not valid Unicode" in str(refused({"input": "\ud800"}))
    str(refused({"input": "a", "\ud800": 1})).encode()


def test_unknown_names_are_shown_short_and_printable():
    message = str(refused({"input": "a", "x\n\x1b[31m": 1, "y" * 500: 2}))
    message += str(refused({"input": "a", "allow_tags": True, "voices": {"x\n\ud800" + "y" * 500: {}}}))
    assert message.isprintable()
    assert len(message) < 500


def test_a_flood_of_unknown_fields_gives_a_short_message():
    message = str(refused({"input": "a"} | {f"field{i}": i for i in range(10_000)}))
    assert "and 9980 more" in message
    assert len(message) < 2_000


def test_no_message_quotes_a_value():
    message = str(refused({"input": "a", "voice": 5, "ref_text": "my secret words", "speed": "my secret speed"}))
    assert "secret" not in message


@pytest.mark.parametrize("ref_text", [None, "", "  "])
def test_a_reference_without_its_words_is_left_to_be_transcribed(ref_text):
    asked = request.parse({"input": "a", "ref_audio": AUDIO, "ref_text": ref_text})
    assert asked.ref_text is None


@pytest.mark.parametrize("url", ["https://example.com/a.wav", "HTTPS://example.com/a.wav", "http://example.com/a.wav"])
def test_a_string_that_begins_as_a_url_is_one(url):
    assert request.parse({"input": "a", "ref_audio": url}).ref_audio.url == url


@pytest.mark.parametrize("key", ["voices/anna.wav", "output/2026-01-02/job.wav", "voices/a b/ü.wav"])
def test_a_recording_may_lie_under_the_workers_prefixes(key):
    assert request.parse({"input": "a", "ref_audio": {"s3_key": key}}, WITH_BUCKET).ref_audio.s3_key == key


@pytest.mark.parametrize(
    "key",
    [
        "models/x",
        "voices",
        "/voices/a",
        "voices/../models/x",
        "voices//a",
        "voices/./a",
        "voices/..",
        "voices/a\\..\\b",
        "voices/a\n",
        "Voices/a",
        "",
    ],
)
def test_no_other_object_of_the_bucket_is_read(key):
    assert "ref_audio.s3_key: " in str(refused({"input": "a", "ref_audio": {"s3_key": key}}))


def test_without_a_bucket_there_is_no_key_to_read():
    assert "this worker has no bucket" in str(refused({"input": "a", "ref_audio": {"s3_key": "voices/a.wav"}}, request.Worker()))


@pytest.mark.parametrize("voice", ["../x", "a/b", "a.wav", "-a", "a b", "ä", "a" * 65, "a\n"])
@pytest.mark.parametrize("action", ["speech", "voices.get", "voices.delete"])
def test_an_id_of_a_voice_cannot_be_a_path(action, voice):
    text = {"input": "a"} if action == "speech" else {}
    assert "voice: must be 1 to 64 letters" in str(refused({"action": action, "voice": voice} | text))


@pytest.mark.parametrize(
    ("asked_for", "named"),
    [
        ({"inptu": "a"}, "inptu: unknown field; did you mean 'input'?"),
        ({"input": "a", "responseformat": "mp3"}, "did you mean 'response_format'?"),
        ({"input": "a", "NFE_STEP": 7}, "did you mean 'nfe_step'?"),
        ({"input": "a", "ref_audio": {"base46": AUDIO}}, "ref_audio.base46: unknown field; did you mean 'base64'?"),
        ({"segments": [{"txt": "a"}]}, "segments.0.txt: unknown field; did you mean 'text'?"),
        ({"input": "a", "s3Config": S3 | {"bucket": "b"}}, "s3Config.bucket: unknown field; did you mean 'bucketName'?"),
        ({"action": "voices.create", "voise": "b"}, "did you mean 'voice'?"),
    ],
)
def test_an_unknown_field_is_refused_with_the_name_that_was_meant(asked_for, named):
    assert named in str(refused(asked_for))


def test_a_name_that_looks_like_none_is_not_guessed_at():
    assert str(refused({"input": "a", "zzz": 1})).endswith("zzz: unknown field")


@pytest.mark.parametrize(
    ("asked_for", "named"),
    [
        ({"input": "a", "segments": [{"text": "b"}]}, "segments: excludes 'input'"),
        ({"input": "a", "quality": "fast", "nfe_step": 7}, "quality: excludes 'nfe_step'"),
        ({"input": "a", "duration": 3.0, "speed": 1.0}, "duration: excludes 'speed'"),
        ({"input": "a", "duration": 3.0, "remove_silence": True}, "duration: excludes 'remove_silence'"),
        ({"input": "a", "s3Config": S3, "delivery": "inline"}, "s3Config: is not used with 'delivery' 'inline'"),
        ({"input": "a", "model": "tts-1"}, "model: this worker has 'F5TTS_v1_Base'"),
        ({"input": "a", "voices": {"anna": "anna"}}, "voices: nothing names them"),
        ({"input": "a", "allow_tags": True, "voices": {"default": "anna"}}, "voices.default: this name stands for"),
        ({"input": "a", "allow_tags": True, "voices": {"b c": "anna"}}, "voices.b c: must be 1 to 64 letters"),
        ({"input": "a", "allow_tags": True, "voices": {"b": {}}}, "voices.b: give 'voice' or 'ref_audio'"),
        ({"input": "a", "allow_tags": True, "voices": {"b": {"voice": "c", "ref_audio": AUDIO}}}, "voices.b.voice: excludes 'ref_audio'"),
        ({"input": "a", "allow_tags": True, "voices": {"b": {"ref_audio": {}}}}, "voices.b.ref_audio: give exactly one of"),
        ({"input": "a", "response_format": "wav", "bitrate_kbps": 64}, "response_format: wav has no bit rate"),
        ({"input": "a", "response_format": "opus", "sample_rate": 44_100}, "response_format: opus cannot have a sample_rate"),
        ({"input": "a", "idempotency_key": "k", "stream_format": "audio"}, "idempotency_key: excludes 'stream_format'"),
        ({"segments": [{"text": "a"}] * 2, "duration": 3.0}, "duration: is for one text"),
        ({"segments": [{"text": "a", "speed": 1.1}], "duration": 3.0}, "duration: excludes the 'speed' of a segment"),
        ({"segments": [{"text": "a", "voice": f"v{i}"} for i in range(21)]}, "segments: 21 voices"),
        ({"segments": []}, "segments: must not be empty"),
        ({"segments": [{"text": "a"}] * 501}, "segments: must have at most 500 items"),
        ({"segments": ["a"]}, "segments.0: must be an object"),
        ({"action": "transcribe"}, "ref_audio: is missing"),
        ({"action": "voices.create", "voice": "default", "ref_audio": AUDIO}, "voice: 'default' is built in"),
        ({"action": "voices.create", "voice": "anna"}, "ref_audio: is missing"),
        ({"action": "voices.update", "voice": "anna"}, "nothing to change"),
        ({"action": "outputs.get"}, "id: is missing"),
        ({"action": "voices.list", "voice": "a"}, "voice: unknown field"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked_for, named):
    assert named in str(refused(asked_for))


def test_what_does_not_fit_together_is_told_with_every_wrong_value():
    error = refused({"input": "a", "quality": "best", "nfe_step": 7, "speed": 9, "voice": "a/b", "ref_audio": {}, "x": 1})
    for problem in (
        "quality: excludes",
        "quality: must be 'fast'",
        "speed: must be at most 4",
        "voice: excludes",
        "voice: must be 1 to",
        "x: unknown",
    ):
        assert problem in str(error)


def test_a_plain_request_is_one_passage_and_one_voice():
    asked = request.parse({"input": "Hello.", "voice": "anna"})
    assert asked.passages() == [("Hello.", None, None, None, 0.0)]
    assert {name: source.voice for name, source in asked.sources().items()} == {None: "anna"}


def test_segments_are_passages_with_a_voice_of_their_own():
    asked = request.parse(
        {
            "segments": [{"text": "Who?", "voice": "anna", "speed": 2, "seed": 7, "pause_after": 0.5}, {"text": "Me.", "voice": "bob"}],
            "voices": {"anna": {"ref_audio": AUDIO, "ref_text": "words"}},
        }
    )
    assert asked.passages() == [("Who?", "anna", 2.0, 7, 0.5), ("Me.", "bob", None, None, 0.0)]
    sources = asked.sources()
    assert sources["anna"].ref_audio.data == b"RIFF....WAVE"
    assert (sources[None].voice, sources["bob"].voice) == (None, "bob")


def test_the_text_of_all_segments_together_is_bounded():
    half = {"text": "a" * (fields.MAX_TEXT_CHARS // 2 + 1)}
    assert isinstance(refused({"segments": [half, half]}), TextTooLong)


@pytest.mark.parametrize(("asked_for", "steps"), [({}, 32), ({"quality": "fast"}, 7), ({"quality": "balanced"}, 16), ({"nfe_step": 5}, 5)])
def test_quality_is_a_number_of_steps(asked_for, steps):
    assert request.parse({"input": "a"} | asked_for).steps == steps


def test_the_callers_bucket_is_a_secret():
    asked = request.parse({"input": "a", "s3Config": S3})
    assert asked.s3_config.access_secret.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in repr(asked) + str(asked) + repr(asked.s3_config)
    wrong = refused({"input": "a", "s3Config": S3 | {"accessId": 5, "bucketName": "s3cr3t/", "endpointUrl": ["s3cr3t"], "s3": "s3cr3t"}})
    for name in ("accessId", "bucketName", "endpointUrl", "s3"):
        assert f"s3Config.{name}: " in str(wrong)
    assert "s3cr3t" not in str(wrong)


def test_no_repr_of_a_request_holds_its_words_or_recordings():
    asked = request.parse({"segments": [{"text": "my s3cr3t"}], "ref_audio": "https://example.com/?s3cr3t", "ref_text": "s3cr3t"})
    created = request.parse({"action": "voices.create", "voice": "a", "ref_audio": AUDIO, "consent": "s3cr3t"})
    batch = request.parse({"action": "batch", "requests": [{"input": "s3cr3t"}]})
    assert "s3cr3t" not in repr(asked) + repr(created) + repr(batch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"text": "a", "endpoint": "tts"}, {"input": "a"}),
        ({"text": "a", "local_voice": "anna.wav"}, {"input": "a", "voice": "anna"}),
        ({"text": "a", "return_word_timings": True}, {"input": "a", "timestamps": "word", "subtitles": ["srt"]}),
        ({"text": "a", "return_word_timings": True, "timing_format": "ass"}, {"input": "a", "timestamps": "word", "subtitles": ["ass"]}),
        ({"text": "a", "return_word_timings": False, "timing_format": "vtt"}, {"input": "a"}),
        ({"endpoint": "list_voices"}, {"action": "voices.list"}),
    ],
)
def test_the_previous_workers_requests_work_with_a_warning(old, new):
    asked = request.parse(old | ({"seed": 1} if "text" in old else {}))
    assert asked.model_dump() == request.parse(new | ({"seed": 1} if "text" in old else {})).model_dump()
    assert {code for code, _ in asked.warnings} == {"DEPRECATED_FIELD"}
    assert {message.split()[0] for _, message in asked.warnings} == set(old) - {"text"}


def test_a_request_of_today_has_no_warning():
    assert request.parse({"input": "a"}).warnings == ()


@pytest.mark.parametrize(
    ("old", "named"),
    [
        ({"endpoint": "upload"}, "endpoint: 'upload' is now the action 'voices.create'"),
        ({"endpoint": "download"}, "endpoint: 'download' is now the action 'outputs.get'"),
        ({"endpoint": 3}, "endpoint: must be"),
        ({"endpoint": "tts", "action": "speech"}, "endpoint: the same as 'action'"),
        ({"local_voice": "a.wav", "voice": "b"}, "local_voice: the same as 'voice'"),
        ({"local_voice": 3}, "voice: must be a string"),
        ({"return_word_timings": "yes"}, "return_word_timings: must be true or false"),
        ({"return_word_timings": True, "timing_format": "csv"}, "timing_format: must be one of srt"),
        ({"return_word_timings": True, "timing_format": ["srt"]}, "timing_format: must be one of srt"),
        ({"action": "health", "timing_format": "vtt"}, "timing_format: is for the action 'speech'"),
        ({"endpoint": "list_voices", "return_word_timings": True}, "return_word_timings: is for the action 'speech'"),
        ({"return_word_timings": True, "timestamps": "none"}, "return_word_timings: the same as 'timestamps'"),
    ],
)
def test_a_deprecated_field_that_cannot_be_honoured_is_refused(old, named):
    assert named in str(refused({"input": "a"} | old))


def test_each_request_of_a_batch_stands_for_itself():
    batch = request.parse(
        {"action": "batch", "requests": [{"input": "a"}, {"inptu": "a"}, {"action": "health"}, {"input": "a", "stream_format": "audio"}, 5]}
    )
    results = request.each(batch)
    assert isinstance(results[0], request.Speech)
    assert [str(error).partition(":")[0] for error in results[1:]] == ["INVALID_REQUEST"] * 4


def test_a_batch_is_bounded_in_number_and_text():
    assert "requests: must have at most 100 items" in str(refused({"action": "batch", "requests": [{"input": "a"}] * 101}))
    half = "a" * (fields.MAX_TEXT_CHARS // 2 + 1)
    assert isinstance(refused({"action": "batch", "requests": [{"text": half}, {"segments": [{"text": half}]}]}), TextTooLong)


def test_a_number_of_any_size_is_refused_and_not_fatal():
    assert "seed: " in str(refused({"input": "a", "seed": 10**400}))
    assert "speed: " in str(refused({"input": "a", "speed": 10**400}))
    assert "sample_rate: must be at most" in str(refused({"input": "a", "sample_rate": 10**4_000}))


def test_no_field_of_any_action_or_part_is_quoted_when_it_is_refused():
    refusals = [refusal_of(job_input, WITH_BUCKET) for job_input in marked_inputs()]
    assert sum(bool(refusal) for refusal in refusals) > 1_000
    assert [refusal for refusal in refusals if MARK in refusal] == []


@settings(max_examples=500)
@given(job_inputs())
def test_any_json_is_parsed_or_refused_in_sendable_words_that_quote_no_value(job_input):
    refusal = refusal_of(job_input, WITH_BUCKET)
    json.dumps(refusal, ensure_ascii=False).encode()
    assert MARK not in refusal
    assert len(refusal) < MAX_REFUSAL_CHARS
