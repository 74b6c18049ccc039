"""`make studio` as a newcomer without a network has it: its worker speaks, and its page is used in a real headless Chromium.

Without an installed Chromium the page's tests are skipped, unless SCREENSHOTS names the folder that pictures of the page are wanted in.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from f5_worker.endpoint import RunpodEndpoint
from f5_worker.studio import Studio
from tests import browser, sounds
from tests.e2e.test_demo import processes_of
from tests.fakes.runpod_server import RunpodServer
from tests.worker_process import ROOT, base_env, kill_group, until

BOOTING_S = 120
ENDED_S = 20
TEXT = (  # of two segments
    "Good morning, and welcome. This is the first thing that you hear, and it is longer than one would think. "
    "Then there is another sentence, which takes even longer to say, so that the model speaks it after the first and you can read along."
)


@contextmanager
def studio(out: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The program of `make studio` and the page's address."""
    env = base_env() | {"DEMO_MODEL": "tiny", "DEMO_OUT": str(out), "HOME": str(out)}
    out.mkdir()
    log = out / "studio.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.studio", "--port", "0"],
            cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        found = until(lambda: re.search(r"^studio: (\S+)", log.read_text(), re.MULTILINE), BOOTING_S, log.read_text)
        yield process, found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDED_S) == 128 + signal.SIGINT, log.read_text()
        assert processes_of(out) == {}
        assert "Traceback" not in log.read_text()
    finally:
        kill_group(process)
        for pid in processes_of(out):  # only when the test failed
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """Of a studio that Ctrl-C ends without a process that is left."""
    with studio(tmp_path_factory.mktemp("studio") / "out") as (_, address):
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[browser.Browser]:
    if not browser.installed() and "SCREENSHOTS" not in os.environ:
        pytest.skip(f"no Chromium is installed ({', '.join(browser.NAMES)}): `make studio-test` where one is")
    with browser.Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(chromium, url) -> Iterator[browser.Page]:
    """A page whose worker has been asked; it ends without an error in the browser's console."""
    opened = chromium.open(url)
    opened.look(width=1200, dark=False)
    opened.until("!document.querySelector('#ask').disabled")
    opened.choose("#quality", "fast")
    yield opened
    assert opened.errors() == []


def speak(page: browser.Page, text: str) -> None:
    page.fill("#text", text)
    page.click("#speak")
    page.until("!running && shown?.input.input === document.querySelector('#text').value && shown.samples")


def request(address: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data), timeout=30) as response:
        return json.load(response)


INK = """(() => {
  const wave = document.querySelector('#wave'), pixels = wave.getContext('2d').getImageData(0, 0, wave.width, wave.height).data;
  const heights = Array.from({length: wave.width}, (_, x) =>
    Array.from({length: wave.height}, (_, y) => pixels[4 * (y * wave.width + x) + 3] > 0).filter(Boolean).length);
  return {columns: heights.filter(Boolean).length, width: wave.width, heights: new Set(heights).size};
})()"""


def test_the_studio_speaks_without_a_network_and_says_that_it_is_noise(url):
    assert "noise" in request(f"{url}about")["note"]
    job_id = request(f"{url}jobs", {"input": "Hello."})["id"]
    status = until(lambda: (s := request(f"{url}jobs/{job_id}"))["status"] != "IN_PROGRESS" and s, 60, lambda: "no result")
    assert (status["status"], status["output"]["voice"]) == ("COMPLETED", "default")
    with urllib.request.urlopen(f"{url}jobs/{job_id}/audio", timeout=30) as response:
        assert response.read(4) == b"RIFF"


def test_a_text_is_spoken_and_shown(page):
    speak(page, TEXT)
    page.until("audio.readyState >= 2 && audio.duration > 1")
    ink = page.evaluate(INK)
    assert ink["columns"] == ink["width"] > 300
    assert ink["heights"] > 10  # no flat line
    segments = page.evaluate("[...document.querySelectorAll('#cues button')].map(button => button.lastChild.textContent)")
    assert len(segments) >= 2
    assert " ".join(segments).split() == TEXT.split()
    facts = page.text("#facts")
    assert re.search(r"Seed\n\d+", facts)
    assert "demo-tiny" in facts
    timings = dict(page.evaluate("[...document.querySelectorAll('#timings tr')].map(r => [r.cells[0].innerText, r.cells[2].innerText])"))
    assert {"reference", "gpu wait", "synthesis", "encode", "delivery", "total"} <= timings.keys()
    assert all(re.fullmatch(r"[\d,]+ ms", time) for time in timings.values())


def test_the_segment_that_is_heard_is_highlighted(page):
    speak(page, TEXT)
    last = page.evaluate("document.querySelectorAll('#cues button').length - 1")
    assert page.evaluate("document.querySelectorAll('#cues .on').length") == 0
    page.click("#cues button:last-child")
    page.until("document.querySelectorAll('#cues .on').length === 1 && !audio.paused")
    assert page.evaluate("[...document.querySelectorAll('#cues button')].findIndex(button => button.matches('.on'))") == last
    page.evaluate("audio.currentTime = audio.duration - 0.2")
    page.until("audio.ended")


def test_an_empty_text_is_an_error_with_its_code(page):
    page.fill("#text", "")
    page.click("#speak")
    page.until("!document.querySelector('#error').hidden")
    assert page.text("#error-code") == "TEXT_EMPTY"
    assert page.text("#error-message")
    assert page.evaluate("document.querySelector('#spoken').hidden && !document.querySelector('#speak').disabled")


def test_the_options_reach_the_worker(page):
    page.choose("#timestamps", "none")
    page.fill("#speed", "1.5")
    page.fill("#seed", "42")
    page.click("#subtitles [value=srt]")
    page.click("#subtitles [value=json]")
    speak(page, "Hello there.")
    assert page.evaluate("shown.input") == {
        "input": "Hello there.", "response_format": "wav", "timestamps": "none", "voice": "default", "quality": "fast", "speed": 1.5,
        "seed": 42, "subtitles": ["srt", "json"],
    }  # fmt: skip
    assert "Seed\n42" in page.text("#facts")
    page.click("#files summary")
    assert "00:00:00,000 --> " in page.text("#files pre")
    assert page.evaluate("document.querySelectorAll('#cues button').length") == 0


@pytest.mark.parametrize("fmt", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
def test_every_format_is_played_and_drawn(page, fmt):
    page.choose("#format", fmt)
    speak(page, "Hello there, this is one of six.")
    assert page.evaluate("document.querySelector('#error').hidden"), page.text("#error")
    page.until("audio.readyState >= 2")
    heard_s, told_s = page.evaluate("[audio.duration, shown.result.duration_s]")
    assert heard_s == pytest.approx(told_s, abs=0.15)
    assert page.evaluate(INK)["heights"] > 10


def test_a_recording_is_cloned(page, tmp_path):
    file = tmp_path / "me.wav"
    file.write_bytes(sounds.file_of(sounds.speech(4.0)))
    page.choose("#voice", "*")
    page.upload("#recording", file)
    page.fill("#ref_text", "Four seconds of something.")
    speak(page, "Hello.")
    assert page.evaluate("shown.result.voice") == "reference"


def test_cloning_without_a_recording_is_an_error(page):
    page.choose("#voice", "*")
    page.click("#speak")
    page.until("!document.querySelector('#error').hidden")
    assert page.text("#error-code") == "INVALID_REQUEST"


def test_the_keyboard_is_enough_and_the_history_keeps_what_was_spoken(page):
    for text in ("One.", "Two."):
        page.fill("#text", text)
        page.press("Enter", ctrl=True)
        page.until(f"!running && shown?.input.input === '{text}' && shown.samples")
    assert page.evaluate("[...document.querySelectorAll('#history button')].map(b => b.textContent.slice(-4))") == ["Two.", "One."]
    page.click("#history li:last-child button")
    page.until("shown.input.input === 'One.' && document.querySelector('#history li:last-child [aria-current]') !== null")
    assert page.evaluate("audio.src === shown.url")


def test_a_speech_is_cancelled_by_the_keyboard_and_the_next_one_spoken(page):
    page.fill("#text", TEXT * 3)
    page.press("Enter", ctrl=True)
    page.until("running?.id")
    page.press("Escape")
    page.until("!running")
    assert page.text("#status") == "cancelled"
    assert page.evaluate("document.querySelector('#error').hidden && document.querySelector('#spoken').hidden")
    speak(page, "Hello.")


def test_the_worker_tells_its_voices_and_its_boot(page):
    assert re.search(r"demo-tiny on .*version 0\.1\.0, ready after [\d.]+ s", page.text("#worker"))
    assert "load model" in page.text("#boot")
    assert page.evaluate("[...document.querySelector('#voice').options].map(option => option.value)") == ["default", "*"]


def test_an_endpoint_is_waited_for_and_its_speech_comes_out_of_its_bucket(chromium, surroundings, monkeypatch):
    with RunpodServer() as server:
        server.takes_client(monkeypatch)
        server.workers = {"initializing": 1}
        with Studio(RunpodEndpoint(server.endpoint_id), 0) as running:
            thread = threading.Thread(target=running.serve_forever)
            thread.start()
            page = chromium.open(running.url)
            page.until("document.querySelector('#worker').innerText === 'waiting for a worker (1 initializing) …'")
            surroundings.start(server.worker_env() | surroundings.store.env(surroundings.new_bucket()))
            page.until("!document.querySelector('#ask').disabled", timeout_s=BOOTING_S)
            speak(page, "Hello.")
            assert page.text("#endpoint") == f"endpoint {server.endpoint_id}"
            assert page.evaluate("shown.result.audio.url").startswith(surroundings.store.endpoint_url)
            assert page.evaluate("audio.src").startswith("blob:")
            assert "in the queue" in page.text("#timings")
            assert page.errors() == []
            running.shutdown()
            thread.join(10)


def test_a_studio_that_has_ended_is_an_error_on_the_page(page):
    page.send("Network.enable")
    page.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.click("#speak")
    page.until("!document.querySelector('#error').hidden")
    assert page.text("#error-code") == "ENDPOINT_UNREACHABLE"
    assert page.errors() == ["Failed to load resource: net::ERR_INTERNET_DISCONNECTED"]
    page.forget_errors()


def test_every_control_has_a_name(page):
    speak(page, "Hello.")
    page.choose("#voice", "*")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = {"textbox", "combobox", "button", "spinbutton", "checkbox", "link", "image"}
    found = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
    asked = [(role, name) for role, name in found if role in controls]
    assert len(asked) > 15
    assert not [role for role, name in asked if not name]


def test_the_page_fits_its_window_light_and_dark_wide_and_narrow(page, tmp_path):
    page.click("#subtitles [value=srt]")
    page.fill("#seed", "42")
    speak(page, TEXT)
    page.evaluate("audio.currentTime = 0.6 * audio.duration")
    page.until("document.querySelectorAll('#cues .on').length === 1")
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    for name, width, dark in (("light", 1200, False), ("dark", 1200, True), ("narrow", 360, False)):
        page.look(width=width, dark=dark)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background))) < 100) is dark
        page.screenshot(folder / f"{name}.png")
        assert (folder / f"{name}.png").stat().st_size > 10_000
