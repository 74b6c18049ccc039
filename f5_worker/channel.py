"""RunPod's queue while a job runs: parts of a stream and progress, posted as the SDK posts them.

The SDK streams for generator handlers only, and swallows a part that the platform did not take (docs/decisions/0010-streaming.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from f5_worker.errors import DeliveryError
from f5_worker.jobs import Result

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

PART_S = 20.0  # for 1 MB within the platform's network
PROGRESS_S = 3.0  # the result of the job waits for it
RETRY_AFTER_S = (0.2, 1.0, 3.0)


class QueueChannel:
    """`jobs.Channel` of one job."""

    def __init__(self, session: aiohttp.ClientSession, job_id: str, *, stream_url: str, done_url: str) -> None:
        """Take the URLs as the SDK has them: with `$ID` for the job."""
        self._session, self._job_id = session, job_id
        self._stream_url, self._done_url = (f"{url.replace('$ID', job_id)}&isStream=false" for url in (stream_url, done_url))

    async def part(self, output: Result) -> None:
        for pause_s in (*RETRY_AFTER_S, None):
            try:
                await self._post(self._stream_url, {"output": output}, PART_S)
            except _failures() as error:
                log.warning("stream outcome=part_not_taken error=%s", type(error).__name__)
                if pause_s is None:
                    raise DeliveryError(
                        "the platform did not take a part of the stream; send the job again, or without stream_format"
                    ) from error
                await asyncio.sleep(pause_s)
            else:
                return

    async def progress(self, output: Result) -> None:
        try:
            await self._post(self._done_url, {"status": "IN_PROGRESS", "output": output}, PROGRESS_S)
        except _failures() as error:
            log.info("progress outcome=dropped error=%s", type(error).__name__)

    async def _post(self, url: str, body: Result, timeout_s: float) -> None:
        import aiohttp  # noqa: PLC0415 - the SDK has loaded it

        # The SDK sends JSON under this type, and the platform takes it so.
        headers = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded", "X-Request-ID": self._job_id}
        data = json.dumps(body, ensure_ascii=False).encode()
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.post(url, data=data, headers=headers, timeout=timeout, raise_for_status=True) as response:
            await response.read()


@asynccontextmanager
async def opened(
    new_session: Callable[[], aiohttp.ClientSession], job_id: str, *, stream_url: str, done_url: str
) -> AsyncIterator[QueueChannel]:
    """A channel with a session of its own: the SDK's carries the id of whichever job used it last."""
    async with new_session() as session:
        yield QueueChannel(session, job_id, stream_url=stream_url, done_url=done_url)


def _failures() -> tuple[type[Exception], ...]:
    import aiohttp  # noqa: PLC0415 - as above

    return aiohttp.ClientError, TimeoutError
