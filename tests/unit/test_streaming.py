"""Streams: ordered parts of at most 1 MB that together are the audio, and a cancel that ends them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from contextlib import asynccontextmanager, suppress

import pytest
import soundfile

from f5_worker.errors import DeliveryError, EngineError
from f5_worker.service import Service
from f5_worker.settings import Settings
from f5_worker.streaming import Progress
from tests.fakes.memory_store import MemoryStore
from tests.fakes.speaker import RATE, FakeEngine

WAIT_S = 10
TEXT = "one|two|three"  # chunks of the fake engine


class FakeChannel:
    """Keeps what it is told. Knob: `error` is raised from the part of that index on."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.parts, self.told, self.open, self.fail_at = [], [], 0, fail_at
        self.came = asyncio.Event()

    async def part(self, output):
        if self.fail_at is not None and len(self.parts) >= self.fail_at:
            raise DeliveryError("the platform did not take a part")
        self.parts.append(output)
        self.came.set()

    async def progress(self, output):
        assert self.open == 1
        self.told.append(output)

    @asynccontextmanager
    async def opened(self, _job):
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1


def service(engine, channel=None, store=None, **chosen) -> Service:
    return Service(engine, Settings(**chosen), store, boot=dict, open_channel=channel.opened if channel else None)


def job(**asked):
    return {"id": "job-1", "input": {"input": TEXT, "seed": 1, "response_format": "pcm", "stream_format": "audio"} | asked}


async def streamed(engine, channel=None, store=None, **asked):
    channel = channel or FakeChannel()
    return await service(engine, channel, store).handle(job(**asked)), channel


def audio_of(parts) -> bytes:
    return b"".join(base64.b64decode(part["audio"]) for part in parts if "audio" in part)


def test_the_parts_together_are_the_bytes_of_the_job_without_a_stream():
    result, channel = asyncio.run(streamed(FakeEngine()))
    plain = asyncio.run(service(FakeEngine()).handle(job(stream_format="none")))
    assert [part["index"] for part in channel.parts] == list(range(3))
    assert audio_of(channel.parts) == base64.b64decode(plain["audio"]["base64"])
    assert result["sha256"] == plain["sha256"] == result["stream"]["sha256"]
    assert result["stream"] == {"parts": 3, "size_bytes": result["size_bytes"], "sha256": result["sha256"]}


def test_the_first_part_comes_before_the_second_chunk_is_spoken():
    async def listen():
        engine, channel = FakeEngine(ungated=1), FakeChannel()
        engine.gate.clear()
        running = asyncio.create_task(service(engine, channel).handle(job()))
        await asyncio.wait_for(channel.came.wait(), WAIT_S)
        early = list(channel.parts)
        engine.gate.set()
        return early, await running

    early, result = asyncio.run(listen())
    assert [part["index"] for part in early] == [0]
    assert result["stream"]["parts"] == 3


def test_a_stream_asks_the_engine_for_what_a_job_without_one_asks_for():
    engine = FakeEngine()
    for shape in ("audio", "events", "none"):
        asyncio.run(streamed(engine, stream_format=shape))
    audio, events, plain = ((passages, options) for passages, _, options, _ in engine.seen)
    assert audio == events == plain


def test_events_have_openais_names_and_end_with_done():
    result, channel = asyncio.run(streamed(FakeEngine(), stream_format="events"))
    assert [part["type"] for part in channel.parts] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
    assert channel.parts[-1]["sha256"] == result["sha256"]
    assert hashlib.sha256(audio_of(channel.parts)).hexdigest() == result["sha256"]


@pytest.mark.parametrize("fmt", ["wav", "pcm", "mp3", "opus", "flac", "aac"])
def test_no_part_is_larger_than_the_platform_takes(fmt):
    engine = FakeEngine(chunk=RATE * 12)
    result, channel = asyncio.run(streamed(engine, response_format=fmt, sample_rate=48_000))
    assert "error" not in result, result
    assert max(len(json.dumps({"output": part})) for part in channel.parts) < 1_000_000
    assert len(channel.parts) > 3 or fmt in {"mp3", "opus", "aac"}


@pytest.mark.parametrize("fmt", ["wav", "mp3", "opus", "flac"])
def test_what_arrived_can_be_decoded_before_the_end(fmt):
    _, channel = asyncio.run(streamed(FakeEngine(chunk=RATE * 4), response_format=fmt))
    assert len(channel.parts) >= 2
    heard, rate = soundfile.read(io.BytesIO(audio_of(channel.parts[:2])), frames=RATE)
    assert (len(heard), rate) == (RATE, 24_000 if fmt != "opus" else rate)


def test_a_part_that_the_platform_does_not_take_ends_the_job_with_a_code_and_the_synthesis():
    engine = FakeEngine(ungated=2)
    engine.gate.clear()

    async def losing():
        result, _ = await streamed(engine, FakeChannel(fail_at=1))
        assert await asyncio.to_thread(engine.ended.acquire, timeout=WAIT_S)
        return result

    result = asyncio.run(losing())
    assert result["details"] == {"code": "DELIVERY_FAILED", "retryable": True}


def test_an_error_is_told_in_the_stream_too():
    for shape, expected in (("audio", {"index": 0}), ("events", {"index": 0, "type": "error"})):
        result, channel = asyncio.run(streamed(FakeEngine(error=EngineError("no numbers")), stream_format=shape))
        assert result["error"].startswith("ENGINE_FAILED")
        assert channel.parts == [expected | {"error": {"code": "ENGINE_FAILED", "message": "no numbers"}}]


def test_a_cancel_ends_the_stream_and_frees_the_gpu():
    async def cancel_midway():
        engine, channel = FakeEngine(), FakeChannel()
        engine.gate.clear()
        subject = service(engine, channel)
        running = asyncio.create_task(subject.handle(job()))
        assert await asyncio.to_thread(engine.started.acquire, timeout=WAIT_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(engine.ended.acquire, timeout=WAIT_S)
        return channel

    channel = asyncio.run(cancel_midway())
    assert (channel.parts, channel.open) == ([], 0)


def test_without_a_platform_the_parts_are_in_the_result():
    result = asyncio.run(service(FakeEngine()).handle(job()))
    assert hashlib.sha256(audio_of(result["stream"]["output"])).hexdigest() == result["sha256"]


def test_a_streamed_job_delivers_the_whole_as_well():
    bucket = MemoryStore()
    result, _ = asyncio.run(streamed(FakeEngine(), store=bucket))
    assert "url" in result["audio"]


def test_what_was_streamed_and_does_not_fit_the_result_is_a_warning():
    channel = FakeChannel()
    result = asyncio.run(service(FakeEngine(), channel, max_inline_bytes=10).handle(job()))
    assert result["audio"] == {}
    assert "DELIVERED_BY_STREAM" in {warning["code"] for warning in result["warnings"]}
    assert len(channel.parts) == 3


def test_progress_counts_the_chunks_in_order():
    async def watched():
        engine, channel = FakeEngine(ungated=1), FakeChannel()
        engine.gate.clear()

        async def progress(output):
            channel.told.append(output)
            engine.ungated += 1  # the next chunk is spoken when this one is told

        channel.progress = progress
        result = await asyncio.wait_for(service(engine, channel).handle(job(stream_format="none")), WAIT_S)
        return result, channel.told

    result, told = asyncio.run(watched())
    assert "audio" in result
    assert told == [{"chunks_done": done, "chunks_total": 3} for done in (1, 2)]


class SlowChannel(FakeChannel):
    """Takes progress when the job has ended, or after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.ended = [], asyncio.Event()

    async def progress(self, output):
        self.asked.append(output)
        self.came.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 0.3)
        await super().progress(output)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_ends_after_its_last_progress(cancelled):
    async def watched():
        engine, channel = FakeEngine(ungated=1), SlowChannel()
        engine.gate.clear()
        running = asyncio.create_task(service(engine, channel).handle(job(stream_format="none")))
        await asyncio.wait_for(channel.came.wait(), WAIT_S)
        running.cancel() if cancelled else engine.gate.set()
        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        told = list(channel.told)
        channel.ended.set()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # there are none, unless progress is still being told
            await asyncio.wait_for(task, WAIT_S)
        return outcome, told, channel

    outcome, told, channel = asyncio.run(watched())
    assert isinstance(outcome, asyncio.CancelledError) is cancelled
    assert told == channel.told == channel.asked
    assert told[0] == {"chunks_done": 1, "chunks_total": 3}


def test_progress_that_was_not_told_by_the_end_is_dropped():
    async def closing_while_one_is_told():
        channel, taken = FakeChannel(), asyncio.Event()
        channel.open, channel.telling = 1, asyncio.Event()

        async def progress(output):
            channel.telling.set()
            await taken.wait()
            channel.told.append(output)

        channel.progress = progress
        progressing = Progress(channel)
        progressing.report(1, 3)
        await asyncio.wait_for(channel.telling.wait(), WAIT_S)
        progressing.report(2, 3)
        closing = asyncio.create_task(progressing.close())
        await asyncio.sleep(0)
        assert not closing.done()
        taken.set()
        await asyncio.wait_for(closing, WAIT_S)
        progressing.report(2, 3)  # the thread that speaks may end later than the job
        await asyncio.sleep(0)
        return channel.told

    assert asyncio.run(closing_while_one_is_told()) == [{"chunks_done": 1, "chunks_total": 3}]


def test_progress_that_was_not_begun_by_the_end_is_not_told():
    async def closing_at_once():
        channel = FakeChannel()
        channel.open = 1
        progressing = Progress(channel)
        progressing.report(1, 3)
        await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            await progressing.close()
        return channel.told

    assert asyncio.run(closing_at_once()) == []


def test_a_stream_reports_no_progress_beside_its_parts():
    _, channel = asyncio.run(streamed(FakeEngine()))
    assert channel.told == []
