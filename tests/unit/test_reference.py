"""Reference recordings: what can be cloned is prepared, everything else is refused with what to change."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from f5_worker import decode, reference
from f5_worker.decode import MAX_SAMPLES
from f5_worker.errors import ReferenceInvalid
from tests.sounds import Wave, file_of, silence, speech, tone

TEXT = "Some words that fit three seconds of speech."


@dataclass
class Recogniser:
    """Stands in for transcribe.Transcriber and says what it was asked."""

    text: str = "these are the words that were heard in the recording"
    seconds: list[float] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)

    def transcribe(self, samples: Wave, rate_hz: int, language: str | None = None) -> Recogniser:
        self.seconds.append(len(samples) / rate_hz)
        self.languages.append(language)
        return self


@pytest.mark.parametrize(
    ("fmt", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS"),
     ("OGG", "OPUS"), ("AIFF", None)],
)  # fmt: skip
def test_common_formats_are_decoded(fmt: str, subtype: str | None) -> None:
    voice = reference.prepare(file_of(tone(3), fmt=fmt, subtype=subtype), TEXT)
    assert voice.sample_rate_hz == 24_000
    assert voice.samples.dtype == np.float32
    assert voice.samples.ndim == 1
    assert voice.seconds == pytest.approx(3.05, abs=0.15)
    assert voice.seconds == len(voice.samples) / 24_000


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_becomes_24_khz_at_the_same_pitch(rate_hz: int) -> None:
    voice = reference.prepare(file_of(speech(3, rate_hz), rate_hz), TEXT)
    spectrum = np.abs(np.fft.rfft(voice.samples))
    assert int(np.argmax(spectrum)) / len(voice.samples) * 24_000 == pytest.approx(220, abs=2)
    assert [code for code, _ in voice.warnings] == (["REFERENCE_NARROWBAND"] if rate_hz < 16_000 else [])


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_channels_are_mixed_to_one(channels: int) -> None:
    voice = reference.prepare(file_of(np.tile(tone(3)[:, None], (1, channels))), TEXT)
    assert np.abs(voice.samples).max() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("hum", [0.0, 0.3])
def test_of_channels_that_cancel_each_other_the_loudest_is_used(hum: float) -> None:
    common = hum * speech(3).std() * np.sqrt(2) * np.sin(2 * np.pi * 50 * np.arange(3 * 24_000) / 24_000)
    channels = np.stack([common + 0.9 * speech(3), common - speech(3)], axis=1)
    voice = reference.prepare(file_of(channels), TEXT)
    np.testing.assert_allclose(voice.samples[: 2 * 24_000], channels[: 2 * 24_000, 1], atol=1e-4)


def test_a_voice_in_one_of_eight_channels_is_heard() -> None:
    channels = np.zeros((3 * 24_000, 8), dtype=np.float32)
    channels[:, 5] = speech(3)
    assert np.abs(reference.prepare(file_of(channels), TEXT).samples).max() == pytest.approx(0.3 / 8, abs=0.01)


def test_silent_edges_are_trimmed_and_50_ms_stay_at_the_end() -> None:
    voice = reference.prepare(file_of(np.concatenate([silence(2), tone(3), silence(5)])), TEXT)
    assert voice.seconds == pytest.approx(3.05, abs=0.02)
    assert not voice.samples[-1_200:].any()
    assert np.abs(voice.samples[:240]).max() > 0.1


def test_pauses_inside_are_kept() -> None:
    assert reference.prepare(file_of(np.concatenate([tone(1), silence(1), tone(1)])), TEXT).seconds == pytest.approx(3.05, abs=0.02)


def test_quiet_recording_is_kept_whole_and_warned_about() -> None:
    voice = reference.prepare(file_of(speech(3, level=0.01), subtype="PCM_24"), TEXT)
    assert voice.seconds == pytest.approx(3.05, abs=0.02)
    assert [code for code, _ in voice.warnings] == ["REFERENCE_QUIET"]


def test_clipped_recording_is_warned_about() -> None:
    voice = reference.prepare(file_of(np.clip(speech(3, level=6.0), -1, 1)), TEXT)
    assert [code for code, _ in voice.warnings] == ["REFERENCE_CLIPPED"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("Eight words are here, and a few more", "Eight words are here, and a few more. "),
     ("  Eight words\n are here, and more. ", "Eight words are here, and more. "),
     ("Are eight words here, and a few more?", "Are eight words here, and a few more? "),
     ("\u8fd9\u91cc\u6709\u4e00\u4e9b\u8bcd\u8bed\u53ef\u8bf4\u3002", "\u8fd9\u91cc\u6709\u4e00\u4e9b\u8bcd\u8bed\u53ef\u8bf4\u3002")],
)  # fmt: skip
def test_text_ends_as_the_model_expects(given: str, kept: str) -> None:
    assert reference.prepare(file_of(tone(3)), given).text == kept


@pytest.mark.parametrize(
    "sent", ["Se\u00adven cafe\u0301s\u200b are here,\ufeff and more.\x07", "\u200b Seven caf\u00e9s \r\n are here, and more."]
)
def test_text_goes_to_the_model_as_cleaned_as_any_other(sent: str) -> None:
    assert reference.prepare(file_of(speech(3)), sent).text == "Seven caf\u00e9s are here, and more. "
    heard = reference.prepare(file_of(speech(3)), None, transcriber=Recogniser(sent))
    assert heard.text == "Seven caf\u00e9s are here, and more. "


def test_digits_in_the_text_are_warned_about() -> None:
    for text, transcriber in (("There are 25 of them here.", None), (None, Recogniser("There are 25 of them here."))):
        voice = reference.prepare(file_of(speech(3)), text, transcriber=transcriber)
        assert [code for code, _ in voice.warnings] == ["REFERENCE_DIGITS"]


def header_only() -> bytes:
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16) + b"data" + bytes(4)


BAD: dict[str, tuple[bytes, str, str]] = {
    "0 bytes": (b"", TEXT, "0 bytes"),
    "text named .wav": (b"this is no audio at all" * 50, TEXT, "not audio"),
    "one byte": (b"\0", TEXT, "not audio"),
    "truncated header": (file_of(tone(3))[:20], TEXT, "not audio"),
    "header without samples": (header_only(), TEXT, "silent"),
    "0.2 s": (file_of(tone(0.2)), "Hey.", r"0\.20 s of sound"),
    "silence": (file_of(silence(3)), TEXT, "silent"),
    "hiss far below speech": (file_of(tone(3, level=0.0005), subtype="PCM_24"), TEXT, "silent"),
    "NaN": (file_of(np.full(48_000, np.nan, dtype=np.float32), subtype="FLOAT"), TEXT, "not numbers"),
    "infinity": (file_of(np.array([0.1, np.inf] * 24_000, dtype=np.float32), subtype="FLOAT"), TEXT, "not numbers"),
    "13 s": (file_of(tone(13)), "word " * 30, "cut it to at most 12 s"),
    "10 minutes": (file_of(tone(600, 8_000), 8_000), "word " * 500, "has a minute or more of sound: cut it to at most 12 s"),
    "text too short": (file_of(tone(5)), "Yes, so.", r"1\.6 a second"),
    "text too long": (file_of(tone(1)), "word " * 20, "speech has 3 to 35"),
    "empty text": (file_of(tone(3)), "", "ref_text is empty"),
    "blank text": (file_of(tone(3)), " \n\t", "ref_text is empty"),
    "text without a word": (file_of(tone(3)), "...?!", "ref_text is empty"),
    "absurd rate": (file_of(tone(3, 1_000), 1_000), TEXT, "1000 Hz"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_cloned_is_refused_with_the_reason(case: str) -> None:
    data, text, message = BAD[case]
    with pytest.raises(ReferenceInvalid, match=message):
        reference.prepare(data, text)


def test_wrong_extension_does_not_matter_because_the_content_decides() -> None:
    assert reference.prepare(file_of(tone(3), fmt="FLAC"), TEXT).seconds > 3


def test_twelve_seconds_are_not_cut() -> None:
    voice = reference.prepare(file_of(speech(12)), "word " * 30)
    assert voice.seconds == pytest.approx(12.05, abs=0.001)
    assert not voice.transcribed


@pytest.mark.parametrize("text", [None, "", " \n", "...", "the words of all of the twenty seconds, which is more than what is used"])
def test_a_long_recording_is_cut_at_a_silence_and_the_cut_is_transcribed(text: str | None) -> None:
    recogniser = Recogniser()
    recording = np.concatenate([speech(9), silence(0.3), speech(11)])
    voice = reference.prepare(file_of(recording), text, transcriber=recogniser, language="de")
    assert voice.seconds == pytest.approx(9.05, abs=0.02)
    assert (voice.text, voice.transcribed) == (f"{recogniser.text}. ", True)
    assert (recogniser.seconds, recogniser.languages) == ([pytest.approx(9.0, abs=0.02)], ["de"])
    [(code, message)] = voice.warnings
    assert code == "REFERENCE_CUT"
    assert ("in place of ref_text" in message) == bool(text and text.strip())


def test_of_several_silences_the_last_before_twelve_seconds_is_taken() -> None:
    recording = np.concatenate([speech(7), silence(0.3), speech(3), silence(0.3), speech(1.2), silence(0.3), speech(20)])
    voice = reference.prepare(file_of(recording), None, transcriber=Recogniser())
    assert voice.seconds == pytest.approx(7 + 0.3 + 3 + 0.3 + 1.2 + 0.05, abs=0.02)


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    recording = speech(20)
    recording[int(8.3 * 24_000) : int(8.45 * 24_000)] *= 0.05
    voice = reference.prepare(file_of(recording), None, transcriber=Recogniser())
    assert 8.2 < voice.seconds < 8.6


def test_ten_minutes_are_cut_like_any_long_recording() -> None:
    voice = reference.prepare(file_of(speech(599, 8_000), 8_000), None, transcriber=Recogniser())
    assert 6 < voice.seconds <= 12.05
    assert [code for code, _ in voice.warnings] == ["REFERENCE_CUT", "REFERENCE_NARROWBAND"]


@pytest.mark.parametrize(("most_samples", "looked_at_s"), [(MAX_SAMPLES, 60), (2 * 10 * 8_000, 10)])
def test_what_comes_after_the_part_that_is_looked_at_is_not_passed_over_in_silence(
    most_samples: int, looked_at_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_SAMPLES", most_samples)
    recording = np.concatenate([speech(3, 8_000), silence(62, 8_000), speech(3, 8_000)])
    voice = reference.prepare(file_of(np.tile(recording[:, None], 2), 8_000), TEXT)
    assert voice.seconds < 3.2
    [message] = [message for code, message in voice.warnings if code == "REFERENCE_CUT"]
    assert message.startswith(f"only the first {looked_at_s} s of")


@pytest.mark.parametrize("padding_s", [0, 0.06])
def test_of_a_minute_and_what_codecs_add_nothing_is_passed_over(padding_s: float) -> None:
    voice = reference.prepare(file_of(np.concatenate([speech(3, 8_000), silence(57 + padding_s, 8_000)]), 8_000), TEXT)
    assert "REFERENCE_CUT" not in dict(voice.warnings)


@pytest.mark.parametrize("fmt", ["WAV", "AIFF"])
def test_a_file_that_was_cut_off_is_a_warning(fmt: str) -> None:
    whole = file_of(speech(5), fmt=fmt)
    assert "REFERENCE_TRUNCATED" not in dict(reference.prepare(whole, TEXT).warnings)
    assert "REFERENCE_TRUNCATED" in dict(reference.prepare(whole[: len(whole) // 2], TEXT).warnings)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFDB])
def test_a_wav_that_was_written_as_a_stream_is_whole(length: int) -> None:
    whole = file_of(speech(3))
    at = whole.index(b"data") + 4
    voice = reference.prepare(whole[:at] + length.to_bytes(4, "little") + whole[at + 4 :], TEXT)
    assert "REFERENCE_TRUNCATED" not in dict(voice.warnings)


def test_controls_in_the_text_are_a_warning() -> None:
    voice = reference.prepare(file_of(speech(3)), "Some\tcall\x00 me nature.\n")
    assert voice.text == "Some call me nature. "
    assert voice.warnings == (("CHARACTERS_LEFT_OUT", "ref_text: these characters are controls and are left out: '\\x00' at 9"),)


def test_a_short_recording_with_its_text_is_not_transcribed() -> None:
    recogniser = Recogniser()
    voice = reference.prepare(file_of(speech(3)), TEXT, transcriber=recogniser)
    assert (voice.transcribed, recogniser.seconds) == (False, [])


@pytest.mark.parametrize("heard", ["", "...", "la", "la " * 100], ids=["nothing", "no word", "too little", "a loop"])
def test_what_cannot_be_the_words_of_the_recording_is_no_transcript(heard: str) -> None:
    with pytest.raises(ReferenceInvalid, match="pass ref_text"):
        reference.prepare(file_of(speech(3)), None, transcriber=Recogniser(heard))


def test_the_quality_report_describes_what_is_used() -> None:
    voice = reference.prepare(file_of(np.concatenate([silence(1), speech(4, 48_000)]), 48_000), TEXT)
    assert voice.quality
    assert (voice.quality.sample_rate_hz, voice.quality.seconds) == (48_000, pytest.approx(4.0, abs=0.02))


def test_an_equal_voice_is_prepared_once_and_another_text_or_language_is_another_voice() -> None:
    cache, data = reference.VoiceCache(10_000_000), file_of(speech(3))
    first = cache.prepare(data, TEXT)
    assert cache.prepare(bytes(bytearray(data)), TEXT) is first
    others = [cache.prepare(data, TEXT + " "), cache.prepare(data, TEXT, language="en"), cache.prepare(file_of(speech(3, level=0.2)), TEXT)]
    assert len({id(voice) for voice in (first, *others)}) == 4


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest() -> None:
    recordings = [file_of(speech(3, level=0.1 + 0.1 * index)) for index in range(4)]
    size_bytes = reference.prepare(recordings[0], TEXT).samples.nbytes + len(recordings[0])
    cache = reference.VoiceCache(2 * size_bytes)
    first, second = (cache.prepare(data, TEXT) for data in recordings[:2])
    assert cache.prepare(recordings[0], TEXT) is first
    cache.prepare(recordings[2], TEXT)
    assert cache.size_bytes == 2 * size_bytes
    assert cache.prepare(recordings[0], TEXT) is first
    assert cache.prepare(recordings[1], TEXT) is not second


def test_a_voice_that_is_larger_than_the_cache_is_prepared_all_the_same() -> None:
    cache = reference.VoiceCache(10)
    assert cache.prepare(file_of(speech(3)), TEXT).seconds > 3
    assert cache.size_bytes == 0


def test_what_was_refused_is_not_remembered() -> None:
    cache, data = reference.VoiceCache(10_000_000), file_of(speech(3))
    with pytest.raises(ReferenceInvalid):
        cache.prepare(data, None)
    assert cache.prepare(data, None, transcriber=Recogniser()).transcribed


def test_the_cache_may_be_used_from_several_threads() -> None:
    cache, recordings = reference.VoiceCache(700_000), [file_of(speech(2 + index % 3)) for index in range(6)]
    threads = [threading.Thread(target=lambda: [cache.prepare(data, "word " * 8) for data in recordings]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 0 < cache.size_bytes <= 700_000


@dataclass
class SlowRecogniser(Recogniser):
    """Hears nothing before it may, and then only the first time what can be spoken if it fails."""

    fails: int = 0
    heard: threading.Event = field(default_factory=threading.Event)
    may: threading.Event = field(default_factory=threading.Event)

    def transcribe(self, samples: Wave, rate_hz: int, language: str | None = None) -> Recogniser:
        super().transcribe(samples, rate_hz, language)
        self.heard.set()
        assert self.may.wait(30)
        return Recogniser("...") if len(self.seconds) <= self.fails else self


@pytest.mark.parametrize("fails", [0, 1])
def test_a_voice_that_several_ask_for_at_once_is_prepared_once(fails: int) -> None:
    recogniser, cache, data = SlowRecogniser(fails=fails), reference.VoiceCache(10_000_000), file_of(speech(3))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.prepare, data, None, transcriber=recogniser) for _ in range(4)]
        assert recogniser.heard.wait(30)
        assert cache.prepare(data, TEXT).text == f"{TEXT} "  # another one does not wait
        recogniser.may.set()
        refused = [future for future in asked if future.exception(30)]
        voices = {id(future.result()) for future in asked if future not in refused}
    assert (len(refused), len(voices), len(recogniser.seconds)) == (fails, 1, fails + 1)


def test_default_voice_is_the_packaged_example() -> None:
    voice = reference.default_voice()
    assert voice.text == "Some call me nature, others call me mother nature. "
    assert 4.5 < voice.seconds < 6
    assert voice.warnings == ()
    assert voice.quality
    assert voice.quality.snr_db > 20
    assert voice.quality.bandwidth_hz > 7_000
