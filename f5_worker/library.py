"""The actions on the voice library, from the request to the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from f5_worker import casting, request
from f5_worker.jobs import Result, Runtime


def create(run: Runtime, asked: request.VoicesCreate) -> Result:
    original = casting.recording(run, asked.ref_audio)
    run.saved_voices.check_new(asked.voice, original, overwrite=asked.overwrite)  # before it is transcribed
    voice = casting.prepare(run, original, asked.ref_text, asked.language)
    return run.saved_voices.create(asked.voice, voice, original, overwrite=asked.overwrite, notes=_notes(asked))


def get(run: Runtime, asked: request.VoicesGet) -> Result:
    record = run.saved_voices.read(asked.voice)
    return record | run.saved_voices.link(record, asked.url_expires_in or run.settings.url_expires_s)


def list_all(run: Runtime, asked: request.VoicesList) -> Result:
    voices, more = run.saved_voices.list(limit=asked.limit, after=asked.after)
    return {"voices": voices} | ({"next": more} if more else {})


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
