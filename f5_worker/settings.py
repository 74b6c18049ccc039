"""Settings of the worker: the one place that reads the environment.

`Settings.from_env` reports every bad variable in one error and never shows a secret. Nothing here imports more than the
standard library: the boot asks for its first byte within half a second of process start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from f5_worker.errors import SettingsError

CACHE_DIR_CANDIDATES = (Path("/tmp/models"), Path("/app/models"), Path("/runpod-volume/models"))  # noqa: S108 - the design's order
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")  # RunPod's read-only cached models
DEFAULT_MODEL = "F5TTS_v1_Base"
# RunPod refuses results over 10 MB (/run); base64 grows bytes by 4/3.
DEFAULT_MAX_INLINE_BYTES = 7_000_000
_B2_KEY_ID = re.compile(r"00[0-9a-f]{23}|[0-9a-f]{12}")  # application key id, master key id
_ON = {"1", "true", "yes", "on"}
_OFF = {"0", "false", "no", "off"}


@dataclass(frozen=True)
class S3Settings:
    """Where the bucket is and how to sign for it. `repr` hides the keys."""

    bucket: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    endpoint_url: str | None = None  # None: AWS
    region: str = "us-east-1"
    session_token: str | None = field(default=None, repr=False)
    path_style: bool = True  # of the bucket's address: https://host/bucket/key, else https://bucket.host/key


@dataclass(frozen=True)
class Settings:
    """The environment, checked and typed. `s3` is None when no bucket is set: cache and uploads are off then."""

    s3: S3Settings | None = None
    model_cache_enabled: bool = True
    models_prefix: str = "models/"
    voices_prefix: str = "voices/"
    output_prefix: str = "output/"
    cache_dir: Path | None = None  # MODEL_CACHE_DIR; None: the first usable candidate
    cache_dir_candidates: tuple[Path, ...] = CACHE_DIR_CANDIDATES
    platform_cache: Path = PLATFORM_CACHE
    model: str = DEFAULT_MODEL
    models_file: Path | None = None
    flash_attn: str = "auto"  # auto | on | off
    default_voice: str = "default"
    url_expires_s: int = 86_400
    max_inline_bytes: int = DEFAULT_MAX_INLINE_BYTES
    ca_file: Path | None = None  # AWS_CA_BUNDLE, for an endpoint with a certificate of its own
    restore_deadline_s: float = 300.0
    publish_jitter_s: float = 5.0
    log_level: str = "INFO"
    log_json: bool = False
    warnings: tuple[str, ...] = ()  # for the log: settings that work but are likely not meant

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read and check every variable.

        Raises:
            SettingsError: names every variable that is wrong and what to set instead; holds no secret.
        """
        reader = _Reader(env)
        settings = cls(
            s3=reader.s3(),
            model_cache_enabled=reader.flag("ENABLE_S3_MODEL_CACHE", default=True),
            models_prefix=reader.prefix("S3_MODELS_PREFIX", "models/"),
            voices_prefix=reader.prefix("S3_VOICES_PREFIX", "voices/"),
            output_prefix=reader.prefix("S3_OUTPUT_PREFIX", "output/"),
            cache_dir=reader.path("MODEL_CACHE_DIR"),
            model=reader.text("F5_MODEL", DEFAULT_MODEL),
            models_file=reader.path("F5_MODELS_FILE"),
            flash_attn=reader.choice("FLASH_ATTN", "auto", ("auto", "on", "off")),
            default_voice=reader.text("DEFAULT_VOICE", "default"),
            url_expires_s=int(reader.number("URL_EXPIRES_S", 86_400, 60, 604_800)),  # SigV4 allows at most 7 days
            max_inline_bytes=int(reader.number("MAX_INLINE_BYTES", DEFAULT_MAX_INLINE_BYTES, 0, 14_000_000)),
            ca_file=reader.path("AWS_CA_BUNDLE"),
            restore_deadline_s=reader.number("RESTORE_DEADLINE_S", 300, 1, 3_600),
            publish_jitter_s=reader.number("PUBLISH_JITTER_S", 5, 0, 600),
            log_level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            log_json=bool(env.get("RUNPOD_ENDPOINT_ID")),
            warnings=tuple(reader.warnings),
        )
        prefixes = (settings.models_prefix, settings.voices_prefix, settings.output_prefix)
        if any(a.startswith(b) for a, b in itertools.permutations(prefixes, 2)):
            reader.problems.append("S3_MODELS_PREFIX, S3_VOICES_PREFIX and S3_OUTPUT_PREFIX must not lie in each other")
        if reader.problems:
            raise SettingsError("; ".join(reader.problems))
        return settings

    @property
    def cache_bucket(self) -> S3Settings | None:
        """The bucket as a source of weights, None when that is off."""
        return self.s3 if self.model_cache_enabled else None


class _Reader:
    """Reads single variables and collects what is wrong with them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def text(self, name: str, default: str) -> str:
        return self.env.get(name, "").strip() or default

    def path(self, name: str) -> Path | None:
        value = self.env.get(name, "").strip()
        if value and not value.startswith("/"):
            self.problems.append(f"{name} must be an absolute path, got {value!r}")
        return Path(value) if value else None

    def prefix(self, name: str, default: str) -> str:
        value = self.text(name, default)
        if value.startswith("/") or ".." in value.split("/"):
            self.problems.append(f"{name} must be a key prefix such as {default!r}, got {value!r}")
        return value if value.endswith("/") else value + "/"

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        match = {a.lower(): a for a in allowed}.get(value.lower())
        if match is None:
            self.problems.append(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        return match or default

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.env.get(name, "").strip().lower()
        if value and value not in _ON | _OFF:
            self.problems.append(f"{name} must be true or false, got {value!r}")
        return value in _ON if value else default

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.text(name, str(default))
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            self.problems.append(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
            return default
        return number

    def s3(self) -> S3Settings | None:
        bucket = self.text("S3_BUCKET", "")
        key_id, secret = self.text("AWS_ACCESS_KEY_ID", ""), self.text("AWS_SECRET_ACCESS_KEY", "")
        endpoint = self._endpoint()
        if not bucket:
            if key_id or secret or endpoint:
                self.warnings.append("S3_BUCKET is not set: the S3 credentials are not used, nothing is cached or uploaded")
            return None
        missing = [n for n, v in (("AWS_ACCESS_KEY_ID", key_id), ("AWS_SECRET_ACCESS_KEY", secret)) if not v]
        if missing:
            self.problems.append(
                f"S3_BUCKET is set but {' and '.join(missing)} missing: set them, or unset S3_BUCKET to run without a bucket"
            )
        if not endpoint and _B2_KEY_ID.fullmatch(key_id):
            self.problems.append(
                "AWS_ACCESS_KEY_ID looks like a Backblaze B2 key but AWS_ENDPOINT_URL is not set: "
                "set AWS_ENDPOINT_URL=https://s3.<region>.backblazeb2.com"
            )
        if "/" in bucket:
            self.problems.append(f"S3_BUCKET must be a bucket's name without slashes, got {bucket!r}")
        return S3Settings(
            bucket=bucket,
            access_key_id=key_id,
            secret_access_key=secret,
            endpoint_url=endpoint or None,
            region=self.text("AWS_REGION", self.text("AWS_DEFAULT_REGION", region_of(endpoint))),
            session_token=self.text("AWS_SESSION_TOKEN", "") or None,
            path_style=self.choice("S3_ADDRESSING_STYLE", "path" if endpoint else "virtual", ("path", "virtual")) == "path",
        )

    def _endpoint(self) -> str:
        endpoint = self.text("AWS_ENDPOINT_URL", "").rstrip("/")
        if not endpoint:
            return ""
        try:
            parts = urlsplit(endpoint)
            good = parts.scheme in {"http", "https"} and parts.hostname and not (parts.username or parts.query) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # a port that is none, a host name with an empty label
            good = False
        if not good:
            self.problems.append("AWS_ENDPOINT_URL must look like https://host[:port], without user, password or query")
        return endpoint if good else ""


def region_of(endpoint: str) -> str:
    """The signing region that an endpoint implies: B2 and AWS carry it in the host name, R2 wants `auto`."""
    host = urlsplit(endpoint).hostname or ""
    if match := re.fullmatch(r"(?:[\w-]+\.)?s3[.-]([a-z0-9-]+)\.(?:backblazeb2\.com|amazonaws\.com)", host):
        return match[1]
    return "auto" if host.endswith(".r2.cloudflarestorage.com") else "us-east-1"
