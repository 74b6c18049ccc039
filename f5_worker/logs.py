"""Logging: key=value lines in a terminal, JSON lines on the platform, the job's id on each, secrets on none."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO
from urllib.parse import quote

from f5_worker.settings import Settings

job_id: ContextVar[str | None] = ContextVar("f5_worker_job_id", default=None)

OURS = ("f5_worker", "s3_utils", "model_cache_init", "handler", "__main__")
REDACTED = "[redacted]"
MIN_SECRET_CHARS = 4  # shorter values hide nothing, and redacting "k" would leave no word of a log whole
# Whatever signs or authorises in a URL or a header, known value or not.
_SIGNED = re.compile(r"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=)[^&\s\"']+")


def set_up(*, level: str = "INFO", as_json: bool = False, secrets: Iterable[str | None] = (), stream: TextIO | None = None) -> None:
    """Make this the only logging of the process, also after a library has called `logging.basicConfig`.

    Other people's loggers speak from WARNING on: at DEBUG botocore writes signed headers, at INFO httpx writes URLs.

    Args:
        secrets: Values that no line may ever hold; those shorter than MIN_SECRET_CHARS are ignored.
    """
    formatter = (_JsonFormatter if as_json else _TextFormatter)(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def set_up_for(settings: Settings, env: Mapping[str, str]) -> None:
    """`set_up` as the settings ask for it, then the settings' warnings."""
    s3 = settings.s3
    secrets = (s3.secret_access_key, s3.access_key_id, s3.session_token) if s3 else ()
    tokens = (env.get(name) for name in ("RUNPOD_AI_API_KEY", "RUNPOD_API_KEY", "HF_TOKEN"))
    headers = (pair.partition("=")[2].strip() for pair in env.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(","))
    set_up(level=settings.log_level, as_json=settings.log_json, secrets=(*secrets, *tokens, *headers))
    if settings.log_json:
        _log_what_nobody_caught()
    for warning in settings.warnings if "F5_RESTORE_PID" not in env else ():  # the boot has said them
        logging.getLogger(__name__).warning("settings.warning message=%r", warning)


def _log_what_nobody_caught() -> None:
    """Warnings and defects as lines like all others: the platform cannot file the lines of a bare traceback."""
    log = logging.getLogger(__name__)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: log.critical("process.failed", exc_info=(kind, error, trace))
    threading.excepthook = lambda died: log.error("thread.failed name=%s", died.thread and died.thread.name, exc_info=died.exc_value)


class _SafeFormatter(logging.Formatter):
    """Formats one record as one line; every text that leaves it has passed `clean`."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        super().__init__()
        known = {form for secret in secrets if secret and len(secret) >= MIN_SECRET_CHARS for form in _forms(secret)}
        longest_first = sorted(known, key=len, reverse=True)  # a secret may be part of another
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def clean(self, text: str) -> str:
        text = _SIGNED.sub(rf"\1{REDACTED}", text)
        return self._known.sub(REDACTED, text) if self._known else text

    def cause(self, record: logging.LogRecord) -> str:
        return self.clean(self.formatException(record.exc_info)) if record.exc_info else ""


def _forms(secret: str) -> tuple[str, ...]:
    """The ways in which a secret gets into a text: as it is, in a URL, in JSON, in a repr."""
    return secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _TextFormatter(_SafeFormatter):
    def format(self, record: logging.LogRecord) -> str:
        job = f" job={job_id.get()}" if job_id.get() else ""
        message = f"{self.clean(record.getMessage())}{self.clean(job)}".replace("\r", "\\r").replace("\n", "\\n")
        cause = self.cause(record)
        return f"{_time(record)} {record.levelname:<7} {record.name} {message}" + (f"\n{cause}" if cause else "")


class _JsonFormatter(_SafeFormatter):
    """The keys that the SDK's own JSON lines have (requestId, message, level), so that the platform files them by job."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "requestId": self.clean(job_id.get() or "") or None,
            "logger": record.name,
            "message": self.clean(record.getMessage()),
        }
        cause = self.cause(record)
        return json.dumps(line | ({"exception": cause} if cause else {}))
