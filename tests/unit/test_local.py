"""A run on a terminal: clear about its arguments, and no base64 on the screen."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from f5_worker import local
from f5_worker.errors import RequestError


@pytest.mark.parametrize(
    "argv", [["h", "--test_input", "not json"], ["h", "--test_input=not json"], ["h", "--test_input", "[]"], ["h", "--test_input"]]
)
def test_a_test_input_that_is_no_job_is_refused_in_words(argv):
    with pytest.raises(RequestError, match="--test_input"):
        local.check_arguments(argv)


@pytest.mark.parametrize(
    "argv", [["h"], ["h", "--rp_serve_api"], ["h", "--test_input", '{"input": {}}'], ["h", '--test_input={"input": {}}']]
)
def test_other_arguments_pass(argv):
    local.check_arguments(argv)


def handling(result):
    async def handle(_job):
        return result

    return handle


def test_inline_files_lie_on_the_disk_under_their_own_types(tmp_path, monkeypatch):
    data, text = bytes(1000), b"1\n00:00:00,000"
    result = {
        "format": "mp3",
        "audio": {"base64": base64.b64encode(data).decode()},
        "subtitles": {"srt": {"base64": base64.b64encode(text).decode()}},
        "stream": {"output": [{"index": 0, "audio": "A" * 1000}]},
        "seed": 3,
    }
    made = []
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: made.append(prefix) or str(tmp_path))
    seen = asyncio.run(local.readable(handling(result))({}))
    audio, srt = Path(seen["audio"]["file"]), Path(seen["subtitles"]["srt"]["file"])
    assert (audio.suffix, audio.read_bytes()) == (".mp3", data)
    assert (srt.suffix, srt.read_bytes()) == (".srt", text)
    assert len(str(seen)) < 600
    assert "(1000 characters)" in seen["stream"]["output"][0]["audio"]
    assert seen["seed"] == 3
    assert len(made) == 1


def test_what_is_not_audio_is_shown_as_it_is_and_leaves_no_folder(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("tempfile.mkdtemp", lambda **given: made.append(given))
    result = {"error": "X: y", "details": {"code": "X"}, "audio": {"url": "http://x"}, "list": [1, "a"]}
    assert asyncio.run(local.readable(handling(dict(result)))({})) == result
    assert made == []
