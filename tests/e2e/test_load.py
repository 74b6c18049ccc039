"""Under load: 200 jobs of 20 clients, some bad, some cancelled, a bucket that fails, and two workers that are asked to end.

Half of the clients also create, change and remove a voice, the other half look up and remove the files of a job.

Every job ends exactly once, with a result or a coded error; no result that the platform acknowledged is lost; equal requests have equal
audio. What the platform does about a worker that ended is done here too: its jobs without a result are queued again.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import threading
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Surroundings, Worker
from tests.fakes.fault_proxy import Fault, FaultProxy, Request, status
from tests.fakes.runpod_server import FINAL, RunpodServer
from tests.sounds import file_of
from tests.sounds import speech as speech_sound

CLIENTS, JOBS_EACH = 20, 10
FAILING_SHARE = 0.05
JOB_S = 150
SIGTERMS_AFTER = (60, 130)  # jobs that have ended

SPEECHES: list[dict[str, Any]] = [
    {"input": "Hello.", "seed": 1, "nfe_step": 1},
    {"input": "A few words more.", "seed": 2, "nfe_step": 1, "response_format": "mp3"},
    {"input": "By flac.", "seed": 3, "nfe_step": 1, "response_format": "flac", "delivery": "inline"},
    {"input": "A stream.", "seed": 4, "nfe_step": 1, "response_format": "pcm", "stream_format": "audio"},
    {"input": "Some words.", "seed": 5, "nfe_step": 1, "subtitles": ["srt"]},
    {"segments": [{"text": "Yes?"}, {"text": "No."}], "seed": 6, "nfe_step": 1},
    {"input": "Only once.", "seed": 7, "nfe_step": 1, "idempotency_key": "load"},
]
OTHERS: list[dict[str, Any]] = [
    {"action": "health"},
    {"action": "models.list"},
    {"action": "voices.list"},
    {"action": "batch", "requests": [SPEECHES[0], {"input": ""}]},
]
BAD: list[tuple[Any, str]] = [
    ({"input": ""}, "TEXT_EMPTY"),
    ({"input": "Hi.", "pitch": 3}, "INVALID_REQUEST"),
    ({"input": "Hi.", "voice": "nobody"}, "VOICE_NOT_FOUND"),
    ({"action": "outputs.get", "id": "no-such-job"}, "OUTPUT_NOT_FOUND"),
    ("Hi.", "INVALID_REQUEST"),
]


@dataclass
class Planned:
    """One job of a client: what is sent, and what has to become of it."""

    kind: str  # speech, other, story, bad, cancelled
    job_input: Any
    code: str = ""
    id: str = ""
    about: Planned | None = None  # an earlier job, whose id is a part of the input


@dataclass
class Load:
    server: RunpodServer
    surroundings: Surroundings
    env: dict[str, str]
    ended: list[Planned] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start_worker(self) -> Worker:
        name = f"worker-{len(self.workers) + 1}"
        worker = self.surroundings.start(self.server.worker_env(name) | self.env)
        self.workers.append(worker)
        worker.until(lambda: [call for call in list(self.server.calls) if call.kind == "take" and call.worker == name])
        return worker

    def client(self, plan: list[Planned]) -> None:
        for job in plan:
            about = {"id": job.about.id} if job.about else {}
            job.id = self.server.submit(job.job_input | about if isinstance(job.job_input, dict) else job.job_input)
            if job.kind == "cancelled":
                if job.job_input["seed"] % 2:  # one half while it runs, the other while it waits
                    self.server.wait_in_progress(job.id, JOB_S)
                self.server.cancel(job.id)
            self.server.wait(job.id, JOB_S)
            with self.changed:
                self.ended.append(job)
                self.changed.notify_all()

    def replace_worker(self, worker: Worker) -> Worker:
        """SIGTERM, the end, and the successor; jobs that the old one took and left go back into the queue."""
        worker.terminate()
        self.server.release_polls()
        assert worker.ended() == 0, worker.log()
        name = f"worker-{len(self.workers)}"
        for job in list(self.server.jobs.values()):
            if job.worker == name and job.status not in FINAL:
                self.server.requeue(job.id)
        return self.start_worker()

    def wait_ended(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.ended) >= count, JOB_S), self.workers[-1].log()


def story_of(client: int) -> list[Planned]:
    """Jobs that come one after the other. Where the bucket failed in one of them, the next find nothing: they have that code then."""
    if client % 2:
        speech = Planned("story", {"input": "For a moment.", "nfe_step": 1})
        files = [Planned("story", {"action": action}, "OUTPUT_NOT_FOUND", about=speech) for action in ("outputs.get", "outputs.delete")]
        return [speech, *files]
    recording = {"ref_audio": base64.b64encode(file_of(speech_sound(2.0), 24_000)).decode(), "ref_text": "Some words."}
    steps = {"voices.create": recording, "voices.update": {"name": "A voice"}, "voices.delete": {}}
    return [Planned("story", {"action": action, "voice": f"load-{client}"} | more, "VOICE_NOT_FOUND") for action, more in steps.items()]


def planned(seed: int) -> list[list[Planned]]:
    """Ten jobs for each client, in an order of its own; one of them is bad, one is cancelled, and three are a story."""
    dice, plans = random.Random(seed), []
    for client in range(CLIENTS):
        good = [Planned("speech", SPEECHES[(client + number) % len(SPEECHES)]) for number in range(JOBS_EACH - 6)]
        other = Planned("other", OTHERS[client % len(OTHERS)])
        story = story_of(client)
        bad = Planned("bad", *BAD[client % len(BAD)])
        cancelled = Planned("cancelled", {"input": "This is never heard. " * 20, "seed": client, "nfe_step": 4})
        plan = [*good, other, *story, bad, cancelled]
        dice.shuffle(plan)
        places = [place for place, job in enumerate(plan) if job.kind == "story"]
        for place, job in zip(places, story, strict=True):
            plan[place] = job
        plans.append(plan)
    return plans


def failing(seed: int) -> Fault:
    """5 % of all calls get an error of the store, or no answer at all."""
    dice, refusals = random.Random(seed), [status(500, code="InternalError"), status(503, code="SlowDown")]

    def before(request: Request):
        return dice.choice(refusals).before(request) if dice.random() < FAILING_SHARE else None

    return Fault("5 %", before=before)


@pytest.fixture(scope="module")
def load(surroundings) -> Iterator[Load]:
    """All 200 jobs, ended."""
    bucket = surroundings.new_bucket()
    with ExitStack() as stack:
        server = stack.enter_context(RunpodServer())
        proxy = stack.enter_context(FaultProxy(upstream=surroundings.store.endpoint_url.removeprefix("http://")))
        env = surroundings.store.env(bucket, endpoint_url=proxy.url)
        running = Load(server, surroundings, env)
        worker = running.start_worker()
        proxy.fail(failing(1), path=f"/{bucket}/*").fail(failing(2), path=f"/{bucket}")
        with ThreadPoolExecutor(CLIENTS) as clients:
            ends = [clients.submit(running.client, plan) for plan in planned(seed=7)]
            for count in SIGTERMS_AFTER:
                running.wait_ended(count)
                worker = running.replace_worker(worker)
            for end in ends:
                end.result(JOB_S)
        proxy.heal()
        yield running


def test_two_hundred_jobs_end_exactly_once(load):
    assert len(load.ended) == len({job.id for job in load.ended}) == CLIENTS * JOBS_EACH
    answers = Counter(len(load.server.jobs[job.id].done) for job in load.ended if job.kind != "cancelled")
    assert answers == {1: CLIENTS * (JOBS_EACH - 1)}
    assert all(len(load.server.jobs[job.id].done) <= 1 for job in load.ended)


def test_good_jobs_complete_although_the_bucket_fails(load):
    failed = {job.id: load.server.jobs[job.id].as_status() for job in load.ended if job.kind == "speech"}
    assert [status for status in failed.values() if status["status"] != "COMPLETED"] == []


def test_other_actions_complete_or_end_with_a_code_that_can_be_retried(load):
    for job in load.ended:
        status = load.server.jobs[job.id].as_status()
        if job.kind == "other" and status["status"] != "COMPLETED":
            assert status["error"].startswith("STORE_UNAVAILABLE: "), status
            assert status["output"]["details"]["retryable"]


def test_voices_and_files_are_what_their_clients_made_of_them(load):
    ended = [(job, load.server.jobs[job.id].as_status()) for job in load.ended if job.kind == "story"]
    for job, answer in ended:
        assert answer["status"] == "COMPLETED" or answer["error"].startswith(("STORE_UNAVAILABLE: ", f"{job.code}: ")), answer
    removed = [job for job, answer in ended if "delete" in str(job.job_input.get("action")) and answer["status"] == "COMPLETED"]
    assert len(removed) >= CLIENTS // 2
    left = load.surroundings.store.client().list_objects_v2(Bucket=load.env["S3_BUCKET"]).get("Contents", [])
    for job in removed:
        name = f"voices/{job.job_input['voice']}/" if job.about is None else f"/{job.about.id}."
        assert [each["Key"] for each in left if name in each["Key"]] == []


def test_bad_jobs_fail_with_their_code(load):
    for job in load.ended:
        if job.kind == "bad":
            status = load.server.jobs[job.id].as_status()
            assert status["status"] == "FAILED"
            assert status["error"].startswith((job.code, "STORE_UNAVAILABLE")), status


def test_cancelled_jobs_stay_cancelled(load):
    assert {load.server.jobs[job.id].status for job in load.ended if job.kind == "cancelled"} == {"CANCELLED"}


def results_of(load: Load) -> Iterator[tuple[Planned, dict[str, Any]]]:
    for job in load.ended:
        if job.kind == "speech":
            yield job, load.server.jobs[job.id].as_status()["output"]


def fetched(audio: dict[str, str]) -> bytes:
    if "base64" in audio:
        return base64.b64decode(audio["base64"])
    with urllib.request.urlopen(audio["url"], timeout=20) as response:
        return response.read()


def test_the_audio_of_every_acknowledged_result_is_there(load):
    for _, result in results_of(load):
        assert hashlib.sha256(fetched(result["audio"])).hexdigest() == result["sha256"]


def test_every_stream_is_whole_and_in_order(load):
    streams = [(load.server.jobs[job.id].parts, result) for job, result in results_of(load) if job.job_input.get("stream_format")]
    assert len(streams) >= 10
    for parts, result in streams:
        assert [part["index"] for part in parts] == list(range(result["stream"]["parts"]))
        heard = b"".join(base64.b64decode(part["audio"]) for part in parts)
        assert hashlib.sha256(heard).hexdigest() == result["sha256"]


def test_equal_requests_have_equal_audio_on_every_worker(load):
    heard = defaultdict(set)
    for job, result in results_of(load):
        heard[repr(job.job_input)].add(result["sha256"])
    assert len(heard) == len(SPEECHES)
    assert [len(sums) for sums in heard.values()] == [1] * len(SPEECHES)


def test_three_workers_served_and_none_said_anything_unexpected(load):
    assert len(load.workers) == 3
    assert {load.server.jobs[job.id].worker for job in load.ended} >= {"worker-1", "worker-2", "worker-3"}
    for worker in load.workers:
        assert "Traceback" not in worker.log(), worker.log()
        assert not re.search(r"code=INTERNAL|INTERNAL: ", worker.log())
