"""Parts and progress over HTTP, against the fake job server."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from f5_worker import channel
from f5_worker.errors import DeliveryError
from tests.fakes.runpod_server import API_KEY, RunpodServer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(channel, "RETRY_AFTER_S", (0.01, 0.01))
    monkeypatch.setattr(channel, "PROGRESS_S", 0.3)
    with RunpodServer() as running:
        yield running


def told(server, *calls):
    """Make the calls on the channel of a new job; the job."""
    job_id = server.submit({})
    env = server.worker_env("w")
    urls = {"stream_url": env["RUNPOD_WEBHOOK_POST_STREAM"], "done_url": env["RUNPOD_WEBHOOK_POST_OUTPUT"]}
    urls = {name: url.replace("$RUNPOD_POD_ID", "w") for name, url in urls.items()}

    async def tell():
        def session():
            return aiohttp.ClientSession(headers={"Authorization": API_KEY})

        async with channel.opened(session, job_id, **urls) as open_channel:
            for name, output in calls:
                await getattr(open_channel, name)(output)

    asyncio.run(tell())
    return server.jobs[job_id]


def test_parts_arrive_in_order_and_as_the_sdk_posts_them(server):
    job = told(server, *[("part", {"index": index, "audio": "é"}) for index in range(3)])
    assert [part["index"] for part in job.parts] == [0, 1, 2]
    call = server.wait_call("stream", 1)
    assert (call.query["isStream"], call.body) == ("false", {"output": {"index": 0, "audio": "é"}})


def test_progress_is_no_end_of_the_job(server):
    job = told(server, ("progress", {"chunks_done": 1}))
    assert (job.progress, job.done) == ([{"chunks_done": 1}], [])


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}])
def test_a_part_is_posted_again_until_it_is_taken(server, fault):
    server.fail("stream", times=2, **fault)
    assert [part["index"] for part in told(server, ("part", {"index": 0}), ("part", {"index": 1})).parts] == [0, 1]


def test_a_part_that_is_never_taken_is_an_error(server):
    server.fail("stream", status=500, times=99)
    with pytest.raises(DeliveryError):
        told(server, ("part", {"index": 0}))


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}])
def test_progress_that_is_not_taken_is_dropped(server, fault):
    server.fail("progress", times=1, **fault)
    assert told(server, ("progress", {"n": 1}), ("progress", {"n": 2})).progress == [{"n": 2}]
