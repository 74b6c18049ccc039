"""The request parser: OpenAI's names, F5's aliases, every problem named at once, no value guessed or coerced."""

from __future__ import annotations

import base64
import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f5_worker import audio, request
from f5_worker.errors import RequestError, TextEmpty, TextTooLong

AUDIO = base64.b64encode(b"RIFF....WAVE").decode()


def refused(job_input) -> RequestError:
    with pytest.raises(RequestError) as caught:
        request.parse(job_input)
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


def test_a_seed_is_drawn_when_none_is_given_and_kept_when_one_is():
    assert request.parse({"input": "a", "seed": 0}).seed == 0
    assert len({request.parse({"input": "a"}).seed for _ in range(8)}) > 1


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
        ("response_format", "aac"),
        ("delivery", "mail"),
        ("url_expires_in", 59),
        ("url_expires_in", 604_801),
        ("voice", ""),
        ("voice", 3),
        ("target_rms", 0),
        ("cross_fade_duration", -0.1),
        ("ref_text", 3),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_field(field, value):
    error = refused({"input": "a"} | {field: value})
    assert error.code == "INVALID_REQUEST"
    assert f"{field}: " in str(error)


def test_a_whole_number_is_good_where_a_number_is_asked_for():
    assert request.parse({"input": "a", "speed": 2}).speed == 2.0


def test_every_format_that_can_be_encoded_can_be_asked_for():
    assert set(get_args(request.Speech.model_fields["response_format"].annotation)) == set(audio.CONTENT_TYPES)


@pytest.mark.parametrize("job_input", [{}, {"input": ""}, {"input": " \n\t"}, {"input": None}])
def test_no_text_has_its_own_code(job_input):
    assert isinstance(refused(job_input), TextEmpty)


def test_too_much_text_has_its_own_code():
    assert isinstance(refused({"input": "a" * 100_000}), TextTooLong)
    assert request.parse({"input": "a" * request.MAX_TEXT_CHARS})


def test_mixed_problems_have_the_general_code():
    assert refused({"input": "", "speed": 9}).code == "INVALID_REQUEST"


@pytest.mark.parametrize("given_audio", [AUDIO, {"base64": AUDIO}, f"data:audio/wav;base64,{AUDIO}", AUDIO[:8] + "\n" + AUDIO[8:]])
def test_a_reference_comes_as_base64_in_three_ways(given_audio):
    asked = request.parse({"input": "a", "ref_audio": given_audio, "ref_text": "words"})
    assert asked.ref_audio.data == b"RIFF....WAVE"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ref_audio": AUDIO}, "ref_text: is missing"),
        ({"ref_audio": AUDIO, "ref_text": "  "}, "ref_text: is missing"),
        ({"ref_text": "words"}, "ref_audio: is missing"),
        ({"ref_audio": AUDIO, "ref_text": "w", "voice": "default"}, "voice: excludes 'ref_audio'"),
        ({"ref_audio": "not base64!", "ref_text": "w"}, "ref_audio.base64: is not valid base64"),
        ({"ref_audio": "", "ref_text": "w"}, "ref_audio.base64: holds no audio"),
        ({"ref_audio": {}, "ref_text": "w"}, "ref_audio.base64: is missing"),
        ({"ref_audio": 7, "ref_text": "w"}, "ref_audio: must be an object"),
        ({"ref_audio": {"base64": AUDIO, "gain": 2}, "ref_text": "w"}, "ref_audio.gain: unknown field"),
        ({"ref_audio": {"url": "https://example.com/a.wav"}, "ref_text": "w"}, "ref_audio: a URL cannot be used yet"),
        ({"ref_audio": "https://example.com/a.wav", "ref_text": "w"}, "ref_audio: a URL cannot be used yet"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(fields, named):
    assert named in str(refused({"input": "a"} | fields))


def test_a_reference_is_capped_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(request.base64, "b64decode", lambda *_a, **_k: pytest.fail("decoded"))
    too_long = "A" * (request.MAX_REFERENCE_BYTES * 4 // 3 + 5)
    assert "more than" in str(refused({"input": "a", "ref_audio": too_long, "ref_text": "w"}))


@pytest.mark.parametrize("job_input", ["Hello.", None, 3, ["Hello."], True])
def test_an_input_that_is_no_object_is_told_what_to_send(job_input):
    assert '{"input": {"input": "Hello."}}' in str(refused(job_input))


def test_the_action_chooses_the_fields():
    assert isinstance(request.parse({"action": "health"}), request.Health)
    assert "input: unknown field" in str(refused({"action": "health", "input": "a"}))
    assert "must be one of speech, health" in str(refused({"action": "dance"}))
    assert "must be one of speech, health" in str(refused({"action": ["health"]}))


def test_half_a_surrogate_pair_is_refused_because_it_cannot_be_sent_back():
    assert "not valid Unicode" in str(refused({"input": "\ud800"}))
    str(refused({"input": "a", "\ud800": 1})).encode()


def test_unknown_names_are_shown_short_and_printable():
    message = str(refused({"input": "a", "x\n\x1b[31m": 1, "y" * 500: 2}))
    assert message.isprintable()
    assert len(message) < 200


def test_a_flood_of_unknown_fields_gives_a_short_message():
    message = str(refused({"input": "a"} | {f"field{i}": i for i in range(10_000)}))
    assert "and 9980 more" in message
    assert len(message) < 2_000


def test_no_message_quotes_a_value():
    message = str(refused({"input": "a", "voice": 5, "ref_text": "my secret words", "speed": "my secret speed"}))
    assert "secret" not in message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from([*request.Speech.model_fields, *request.ALIASES, "base64", "x"]) | st.text(st.characters())


@settings(max_examples=300, deadline=None, database=None)
@given(st.dictionaries(_FIELDS, _JSON | st.just("a"), max_size=6) | _JSON)
def test_any_json_is_parsed_or_refused_in_sendable_words(job_input):
    try:
        request.parse(job_input)
    except RequestError as error:
        json.dumps(str(error), ensure_ascii=False).encode()
