"""What is said in which pass: budgets, seeds, speeds, durations, batches. No model is needed for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from f5_worker import text as texts
from f5_worker.errors import RequestError, TextEmpty, TextTooLong, VoiceNotFound
from f5_worker.passes import Pass, Plan, batches, chunk_seed, halves, max_chunk_bytes, passage_seed, plan
from f5_worker.reference import Voice, default_voice
from f5_worker.speech import Options, Passage

HOP = 256
OPTIONS = Options(seed=5)
SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank today. "


@pytest.fixture(scope="module")
def voice() -> Voice:
    return default_voice()


@pytest.fixture(scope="module")
def other(voice: Voice) -> Voice:
    """A longer recording of a slower speaker."""
    return replace(voice, samples=np.tile(voice.samples, 2), seconds=2 * voice.seconds)


def planned(voice: Voice, text: str = SENTENCE * 8, options: Options = OPTIONS) -> Plan:
    return plan([Passage(text)], {None: voice}, options, hop=HOP)


def spoken_s(found: Plan, options: Options) -> float:
    """Seconds of the output, computed from the passes the way the engine makes it."""
    waves = sum((one.frames - 1) * HOP / 24_000 / one.stretch for one in found.passes)
    fades = options.cross_fade_s * sum(one.pause_before_s == 0 for one in found.passes[1:])
    return waves - fades + found.pause_after_s + sum(one.pause_before_s for one in found.passes)


def test_chunks_have_seeds_of_their_own_and_the_first_the_requests() -> None:
    seeds = [chunk_seed(42, index) for index in range(100)] + [passage_seed(42, index) for index in range(1, 100)]
    assert seeds[0] == passage_seed(42, 0) == 42
    assert len(set(seeds)) == 199
    assert chunk_seed(42, 1) != chunk_seed(43, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_a_passage_do_not_depend_on_the_text_before_it(voice: Voice) -> None:
    short, long = ([one.seed for one in plan([Passage(text), Passage("And then.")], {None: voice}, OPTIONS, hop=HOP).passes] for text in
                   (SENTENCE, SENTENCE * 8))  # fmt: skip
    assert len(short) < len(long)
    assert short[-1] == long[-1]


def test_a_passage_brings_its_own_voice_speed_seed_and_pause(voice: Voice, other: Voice) -> None:
    text = "The quick brown fox jumps over it."
    passages = [Passage(text, pause_after_s=0.5), Passage(text, voice="b", speed=0.8, seed=9, pause_after_s=1.0)]
    found = plan(passages, {None: voice, "b": other}, OPTIONS, hop=HOP)
    first, second = found.passes
    assert (first.alias, first.voice, first.seed, first.pause_before_s, first.passage) == (None, voice, 5, 0.0, 0)
    assert (second.alias, second.voice, second.seed, second.pause_before_s, second.passage) == ("b", other, 9, 0.5, 1)
    assert second.frames == pytest.approx(2 * first.frames / 0.8, rel=0.01)
    assert found.pause_after_s == 1.0


def test_budget_is_that_of_the_voice_that_speaks(voice: Voice, other: Voice) -> None:
    text = f"{SENTENCE * 6}[voice:b] {SENTENCE * 6}"
    found = plan([Passage(text)], {None: voice, "b": other}, replace(OPTIONS, tags=True), hop=HOP)
    for alias, speaker in ((None, voice), ("b", other)):
        sizes = [len(one.chunk.spoken.encode()) for one in found.passes if one.alias == alias]
        assert sizes
        assert max(sizes) <= max_chunk_bytes(speaker, 1.0)
    assert max_chunk_bytes(other, 1.0) < max_chunk_bytes(voice, 1.0)


def test_reference_and_output_stay_within_one_pass(voice: Voice) -> None:
    for seconds, speed in ((0.5, 1.0), (5.0, 1.0), (12.0, 1.0), (12.0, 0.3), (3.0, 2.0), (3.0, 4.0)):
        reference = replace(voice, seconds=seconds, samples=np.zeros(int(seconds * 24_000), np.float32))
        found = planned(reference, SENTENCE * 40, replace(OPTIONS, speed=speed))
        assert max((one.reference_frames + one.frames) * HOP / 24_000 for one in found.passes) <= 22.1


@pytest.mark.parametrize(
    ("speed", "model_speed"), [(1.0, 1.0), (0.7, 0.7), (1.3, 1.3), (0.25, 0.7), (4.0, 1.3), (2.0, 1.3)]
)  # fmt: skip
def test_speed_beyond_the_models_is_left_to_the_stretch(voice: Voice, speed: float, model_speed: float) -> None:
    (plain,) = planned(voice, SENTENCE).passes
    (one,) = planned(voice, SENTENCE, replace(OPTIONS, speed=speed)).passes
    assert one.frames == pytest.approx(plain.frames / model_speed, abs=1)
    assert one.stretch == pytest.approx(speed / model_speed)


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0, 1.4, 3.5])
@pytest.mark.parametrize("text", [SENTENCE, SENTENCE * 10, f"{SENTENCE * 3}[pause:2s] Yes. [pause:1s]"])
def test_duration_is_met_within_a_frame(voice: Voice, text: str, share: float) -> None:
    options = replace(OPTIONS, tags=True)
    natural = planned(voice, text, options)
    pauses_s = natural.pause_after_s + sum(one.pause_before_s for one in natural.passes)
    options = replace(options, duration_s=pauses_s + share * (spoken_s(natural, options) - pauses_s))
    assert spoken_s(planned(voice, text, options), options) == pytest.approx(options.duration_s, abs=2 * HOP / 24_000)


def test_duration_is_spread_by_bytes(voice: Voice) -> None:
    found = planned(voice, SENTENCE * 10, replace(OPTIONS, duration_s=50.0)).passes
    rates = [len(one.chunk.spoken.encode()) / one.frames for one in found]
    assert len(found) > 2
    assert max(rates) < 1.02 * min(rates)


@pytest.mark.parametrize("duration_s", [0.5, 90.0])
def test_duration_that_no_speed_meets_is_refused_with_the_range(voice: Voice, duration_s: float) -> None:
    with pytest.raises(RequestError, match=r"can be spoken in \d+\.\d to \d+\.\d s"):
        planned(voice, SENTENCE, replace(OPTIONS, duration_s=duration_s))


def test_duration_of_several_passages_is_refused(voice: Voice) -> None:
    with pytest.raises(RequestError, match="give each segment a speed"):
        plan([Passage("One."), Passage("Two.")], {None: voice}, replace(OPTIONS, duration_s=5.0), hop=HOP)


def test_one_endless_word_is_cut_into_passes(voice: Voice) -> None:
    found = planned(voice, "a" * 10_000).passes
    assert "".join(one.chunk.spoken for one in found) == "a" * 10_000
    assert max(len(one.chunk.spoken) for one in found) <= max_chunk_bytes(voice, 1.0)


def test_longest_text_is_planned_and_one_character_more_refused(voice: Voice) -> None:
    text = (SENTENCE * 705)[:50_000]
    assert " ".join(one.chunk.written for one in planned(voice, text).passes) == " ".join(text.split())
    with pytest.raises(TextTooLong):
        planned(voice, text + "a")


# What is heard first

PROSE = (
    "It was late, and the rain had not stopped since noon. Nobody spoke. At the end of the street a lamp was still burning, the only one "
    "in the town; somebody had to be awake there. We went on without a word, past the closed shops and the empty square with its "
    "fountain, until we stood before the door. It opened. An old man looked at us as if he had been waiting for us all his life. "
)


def sizes(found: Plan) -> list[int]:
    return [len(one.chunk.spoken.encode()) for one in found.passes]


def test_text_that_fits_one_pass_is_one_chunk(voice: Voice) -> None:
    most = max_chunk_bytes(voice, 1.0)
    assert sizes(planned(voice, ("word " * most)[: most - 1] + ".")) == [most]
    assert len(planned(voice, ("word " * most)[:most] + "w.").passes) == 2


def test_longer_text_begins_with_a_short_chunk_and_nothing_is_lost(voice: Voice) -> None:
    found = planned(voice, PROSE)
    first, *others = sizes(found)
    assert found.passes[0].chunk.spoken == "It was late, and the rain had not stopped since noon."
    assert 3 * first <= max_chunk_bytes(voice, 1.0)
    assert max(others) > 2 * first
    assert " ".join(one.chunk.spoken for one in found.passes) == PROSE.strip()
    assert " ".join(one.chunk.written for one in found.passes) == PROSE.strip()


@pytest.mark.parametrize(
    "text", [PROSE, SENTENCE, "a" * 71, "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002"], ids=["prose", "sentences", "word", "chinese"]
)
def test_first_chunk_has_at_most_half_of_a_pass_and_costs_at_most_one_more(voice: Voice, text: str) -> None:
    for repeats in range(1, 25):
        most, whole = max_chunk_bytes(voice, 1.0), (text * repeats).strip()
        found = sizes(planned(voice, whole))
        assert len(found) == 1 or found[0] <= most / 2
        assert len(found) <= len(texts.chunk(whole, most)) + 1


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.3])
def test_first_chunk_is_short_in_time_at_any_speed(voice: Voice, other: Voice, speed: float) -> None:
    for speaker in (voice, other):
        first, *_ = planned(speaker, PROSE, replace(OPTIONS, speed=speed)).passes
        assert first.frames * HOP / 24_000 <= (22.0 - speaker.seconds) / 2


def test_only_what_is_heard_first_is_short(voice: Voice) -> None:
    text, one, two = SENTENCE * 5, len(SENTENCE) - 1, 2 * len(SENTENCE) - 1
    assert sizes(plan([Passage(text), Passage(text)], {None: voice}, OPTIONS, hop=HOP)) == [one, two, two, two, two, one]
    assert sizes(planned(voice, f"Yes. [pause:1s] {text}", replace(OPTIONS, tags=True))) == [4, two, two, one]


def test_unknown_voice_is_refused_with_the_known_ones(voice: Voice) -> None:
    with pytest.raises(VoiceNotFound, match=r"segments\.1: there is no voice 'c'; known are b"):
        plan([Passage("One."), Passage("Two.", voice="c")], {None: voice, "b": voice}, OPTIONS, hop=HOP)


def test_problem_of_one_passage_says_where_it_is(voice: Voice) -> None:
    with pytest.raises(TextEmpty, match=r"segments\.1: "):
        plan([Passage("One."), Passage("...")], {None: voice}, OPTIONS, hop=HOP)


@pytest.mark.parametrize("fade_frames", [0, 14])
def test_halves_say_the_same_in_the_same_time(voice: Voice, fade_frames: int) -> None:
    (one,) = planned(voice, SENTENCE).passes
    parts = halves(one, fade_frames)
    assert len(parts) == 2
    assert " ".join(part.chunk.spoken for part in parts) == one.chunk.spoken
    assert sum(part.frames - 1 for part in parts) - fade_frames == one.frames - 1
    assert parts[0].seed == one.seed


def test_no_half_has_the_seed_of_another_pass(voice: Voice) -> None:
    first, second, *_ = planned(voice).passes
    assert len({second.seed, *(part.seed for one in (first, second) for part in halves(one, 0))}) == 4


@pytest.mark.parametrize(("speed", "factor"), [(0.5, 0.5), (1.0, 1.0), (1.3, 1.3), (3.0, 3.0)])
def test_the_shortest_text_follows_the_speed_too(voice: Voice, speed: float, factor: float) -> None:
    (plain,) = planned(voice, "Yes.").passes
    (one,) = planned(voice, "Yes.", replace(OPTIONS, speed=speed)).passes
    assert one.frames / one.stretch == pytest.approx(plain.frames / factor, rel=0.01)


def test_range_of_durations_is_that_of_the_slow_speed_of_a_short_text(voice: Voice) -> None:
    natural_s = spoken_s(planned(voice, "Yes."), OPTIONS)
    planned(voice, "Yes.", replace(OPTIONS, duration_s=natural_s / 3.9))
    with pytest.raises(RequestError, match="can be spoken in"):
        planned(voice, "Yes.", replace(OPTIONS, duration_s=natural_s / 4.2))


@pytest.mark.parametrize(
    "passages",
    [
        [Passage("[pause:30s]" * 121 + "hi there you")],
        [Passage("hi there you" + "[pause:30s]" * 121)],
        [Passage("Hi.", pause_after_s=30.0)] * 121,
    ],
    ids=["before", "after", "segments"],
)
def test_more_than_an_hour_of_pauses_is_refused(voice: Voice, passages: list[Passage]) -> None:
    with pytest.raises(RequestError, match="3630 s of pauses, at most 3600"):
        plan(passages, {None: voice}, replace(OPTIONS, tags=True), hop=HOP)


def test_an_hour_of_pauses_is_planned(voice: Voice) -> None:
    assert planned(voice, "[pause:30s]" * 120 + "hi there you", replace(OPTIONS, tags=True)).passes[0].pause_before_s == 3_600


def test_more_speech_than_fits_a_job_is_refused(voice: Voice) -> None:
    with pytest.raises(RequestError, match=r"15\.9 hours of speech, at most 6"):
        planned(voice, "\u4f60" * 50_000, replace(OPTIONS, speed=0.25))


@pytest.mark.parametrize(("spoken", "text"), [("Slow.", SENTENCE * 704), ("\u6162\u6162\u8bf4\u3002", "\u4f60" * 50_000)])
def test_longest_text_at_its_own_speed_fits_a_job_however_slow_the_reference(voice: Voice, spoken: str, text: str) -> None:
    slow = replace(voice, text=spoken + " ", seconds=len(spoken) / 3, samples=np.zeros(len(spoken) * 8_000, np.float32))
    assert planned(slow, text).passes
    assert planned(voice, text).passes


def of_lengths(voice: Voice, *frames: int) -> list[Pass]:
    (one,) = planned(voice, "Hello there.").passes
    return [replace(one, reference_frames=100, frames=n, seed=index) for index, n in enumerate(frames)]


@pytest.mark.parametrize(
    ("frames", "together", "expected"),
    [
        ((300,) * 4, False, [1, 1, 1, 1]),
        ((300, 310, 320, 330), True, [1, 1, 2]),
        ((300, 310, 50, 320, 330, 50, 310), True, [1, 1, 1, 2, 1, 1]),
        ((300,) * 28, True, [1, 1, 2, 4, 8, 8, 4]),
        ((), True, []),
    ],
)
def test_neighbours_of_near_equal_length_run_together_where_the_backend_gains(
    voice: Voice, frames: tuple[int, ...], together: bool, expected: list[int]
) -> None:
    passes = of_lengths(voice, *frames)
    groups = batches(passes, together=together)
    assert [len(group) for group in groups] == expected
    assert [one for group in groups for one in group] == passes


def test_no_batch_mixes_voices(voice: Voice, other: Voice) -> None:
    passes = of_lengths(voice, *[300] * 8)
    passes[5] = replace(passes[5], voice=other)
    assert [len(group) for group in batches(passes, together=True)] == [1, 1, 2, 1, 1, 2]


def test_padding_of_a_batch_is_at_most_a_fifth(voice: Voice) -> None:
    frames = np.random.default_rng(0).integers(50, 1500, 200).tolist()
    for group in batches(of_lengths(voice, *frames), together=True):
        lengths = [one.reference_frames + one.frames for one in group]
        assert min(lengths) >= 0.8 * max(lengths)
        assert all(later.seed == earlier.seed + 1 for earlier, later in pairwise(group))
