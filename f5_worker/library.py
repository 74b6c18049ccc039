"""The actions on the voice library, from the request to the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from f5_worker import casting, request
from f5_worker.jobs import Result, Runtime


def create(run: Runtime, asked: request.VoicesCreate) -> Result:
    run.saved_voices.check_new(asked.voice, overwrite=asked.overwrite)  # before a recording is fetched and transcribed
    original = casting.recording(run, asked.ref_audio)
    voice = casting.prepare(run, original, asked.ref_text, asked.language)
    return run.saved_voices.create(asked.voice, voice, original, overwrite=asked.overwrite, notes=_notes(asked))


def get(run: Runtime, asked: request.VoicesGet) -> Result:
    record = run.saved_voices.read(asked.voice)
    return record | run.saved_voices.link(record, asked.url_expires_in or run.settings.url_expires_s)


def list_all(run: Runtime, _asked: request.VoicesList) -> Result:
    return {"voices": run.saved_voices.list()}


def update(run: Runtime, asked: request.VoicesUpdate) -> Result:
    return run.saved_voices.update(asked.voice, {"text": asked.ref_text, **_notes(asked)})


def delete(run: Runtime, asked: request.VoicesDelete) -> Result:
    run.saved_voices.delete(asked.voice)
    return {"id": asked.voice, "deleted": True}


def _notes(asked: request.VoicesCreate | request.VoicesUpdate) -> dict[str, str | None]:
    return {"name": asked.name, "language": asked.language, "consent": asked.consent}


ACTIONS: dict[type, Callable[[Runtime, Any], Result]] = {
    request.VoicesCreate: create,
    request.VoicesGet: get,
    request.VoicesList: list_all,
    request.VoicesUpdate: update,
    request.VoicesDelete: delete,
}
