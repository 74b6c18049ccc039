"""Settings of the worker: the one place that reads the environment.

`Settings.from_env` reports every bad variable in one error and never shows a secret. Nothing here imports more than the
standard library: the boot asks for its first byte within half a second of process start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
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
_B2_REGIONS = {  # by the cluster that an application key id begins with
    "000": "us-west-000",
    "001": "us-west-001",
    "002": "us-west-002",
    "003": "eu-central-003",
    "004": "us-west-004",
    "005": "us-east-005",
    "006": "ca-east-006",
}
_ON = {"1", "true", "yes", "on"}
_OFF = {"0", "false", "no", "off"}

# What each variable means, for docs/settings.md (python -m f5_worker.docs). Defaults and errors come from the reader itself.
MEANING = {
    "S3_BUCKET": "The bucket. Unset: nothing is cached or uploaded, results travel inline.",
    "AWS_ACCESS_KEY_ID": "Key id of the bucket's credentials. Backblaze B2: an application key's; a master key does not work with S3.",
    "AWS_SECRET_ACCESS_KEY": "The secret that belongs to the key id.",
    "AWS_SESSION_TOKEN": "Third part of temporary credentials.",
    "AWS_ENDPOINT_URL": "Address of the store, such as `https://s3.us-west-004.backblazeb2.com`. Unset: AWS.",
    "AWS_REGION": "Signing region. Unset: `AWS_DEFAULT_REGION`, else what the endpoint's name implies.",
    "AWS_DEFAULT_REGION": "Signing region where `AWS_REGION` is unset.",
    "S3_ADDRESSING_STYLE": "`path`: `https://host/bucket/key`, the default with an endpoint; `virtual`: `https://bucket.host/key`.",
    "AWS_CA_BUNDLE": "PEM file of the certificates to trust, for an endpoint with one of its own. Unset: the system's.",
    "ENABLE_S3_MODEL_CACHE": "`false`: the bucket is for results and voices only, the weights come from the hub.",
    "S3_MODELS_PREFIX": "Where the weights lie in the bucket.",
    "S3_VOICES_PREFIX": "Where the saved voices lie in the bucket.",
    "S3_OUTPUT_PREFIX": "Where results lie in the bucket. No prefix may lie in another.",
    "MODEL_CACHE_DIR": "Where the weights lie on this disk; becomes HF_HOME. Unset or unusable: the first usable of "
    "`/tmp/models`, `/app/models`, `/runpod-volume/models`.",
    "F5_MODEL": "The model to serve, by its name in a models file.",
    "F5_MODELS_FILE": "A file with further models, in the schema of `f5_worker/models.json`.",
    "FLASH_ATTN": "flash-attn: `auto` uses it on GPUs of compute capability 8.0 and newer, `on` warns where it cannot, `off` never does.",
    "DEFAULT_VOICE": "Voice of requests that name none.",
    "URL_EXPIRES_S": "Seconds that a result's URL works. A signature lives 7 days at most.",
    "MAX_INLINE_BYTES": "Largest result in bytes that travels inside the answer. RunPod refuses answers over 10 MB.",
    "RESTORE_DEADLINE_S": "Seconds that the bucket may take at a boot; then the hub serves.",
    "PUBLISH_JITTER_S": "Workers that start together wait up to so many seconds before they publish.",
    "ALLOW_LOOPBACK_URLS": "`true`, for tests on one machine: URLs in requests may be http and lead to this machine."
    " Never set it where others send jobs.",
    "LOG_LEVEL": "Least severe level that is logged.",
    "RUNPOD_LOG_LEVEL": "The same for the RunPod SDK's own lines. `DEBUG` and `TRACE`, which hold whole results, count as `INFO`.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where OpenTelemetry traces go, over OTLP/HTTP; the exporter reads the other `OTEL_` variables."
    " Unset: none are made.",
    "RUNPOD_ENDPOINT_ID": "Set by RunPod: logs are JSON lines then.",
    "RUNPOD_GPU_COUNT": "Set by RunPod: above 0, a worker whose GPU does not work ends at once instead of serving from the CPU.",
    "RUNPOD_SKIP_GPU_CHECK": "`true`: this worker does not look whether the GPU works. RunPod's SDK looks only where this is set to `false`"
    " (and at CUDA, memory, disk and network where RUNPOD_SKIP_AUTO_SYSTEM_CHECKS is).",
}


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
    loopback_urls: bool = False  # clients' URLs may point to this machine
    log_level: str = "INFO"
    log_json: bool = False
    sdk_log_level: str = "INFO"
    otlp_endpoint: str = ""  # empty: no traces
    gpu_expected: bool | None = None  # True: the platform says so; False: nobody is to look; None: where there is a device
    warnings: tuple[str, ...] = ()  # for the log: settings that work but are likely not meant

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, on_read: Callable[[str, str], object] = lambda _name, _default: None) -> Settings:
        """Read and check every variable.

        Args:
            on_read: Called with the name and the default of each variable that is looked at.

        Raises:
            SettingsError: names every variable that is wrong and what to set instead; holds no secret. Its arguments
                after the first are the single problems.
        """
        reader = _Reader(env, on_read)
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
            ca_file=reader.ca_file(),
            restore_deadline_s=reader.number("RESTORE_DEADLINE_S", 300, 1, 3_600),
            publish_jitter_s=reader.number("PUBLISH_JITTER_S", 5, 0, 600),
            loopback_urls=reader.flag("ALLOW_LOOPBACK_URLS", default=False),
            log_level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            log_json=bool(reader.text("RUNPOD_ENDPOINT_ID", "")),
            sdk_log_level=reader.sdk_log_level(),
            otlp_endpoint=reader.url("OTEL_EXPORTER_OTLP_ENDPOINT"),
            gpu_expected=reader.gpu_expected(),
            warnings=tuple(reader.warnings),
        )
        prefixes = (settings.models_prefix, settings.voices_prefix, settings.output_prefix)
        if any(a.startswith(b) for a, b in itertools.permutations(prefixes, 2)):
            reader.problems.append("S3_MODELS_PREFIX, S3_VOICES_PREFIX and S3_OUTPUT_PREFIX must not lie in each other")
        if reader.problems:
            raise SettingsError("; ".join(reader.problems), *reader.problems)
        return settings

    @property
    def cache_bucket(self) -> S3Settings | None:
        """The bucket as a source of weights, None when that is off."""
        return self.s3 if self.model_cache_enabled else None


class _Reader:
    """Reads single variables and collects what is wrong with them."""

    def __init__(self, env: Mapping[str, str], on_read: Callable[[str, str], object]) -> None:
        self.env, self.on_read = env, on_read
        self.problems: list[str] = []
        unread = [name for name in ("HF_HOME", "HF_HUB_CACHE") if env.get(name)]  # every boot sets them
        self.warnings = [f"{name} is not read: MODEL_CACHE_DIR names the directory of the weights" for name in unread]

    def text(self, name: str, default: str) -> str:
        self.on_read(name, default)
        return self.env.get(name, "").strip() or default

    def path(self, name: str) -> Path | None:
        value = self.text(name, "")
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
        value = self.text(name, str(default).lower()).lower()
        if value not in _ON | _OFF:
            self.problems.append(f"{name} must be true or false, got {value!r}")
        return value in _ON

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.text(name, str(default))
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            self.problems.append(f"{name} must be a number from {low:.12g} to {high:.12g}, got {value!r}")
            return default
        return number

    def ca_file(self) -> Path | None:
        path = self.path("AWS_CA_BUNDLE")
        if path is None or not path.is_absolute():
            return None
        import ssl  # noqa: PLC0415 - 20 ms that only those pay who set it

        try:
            ssl.create_default_context(cafile=str(path))
        except OSError as exc:  # ssl.SSLError as well
            why = "holds no certificate in PEM" if isinstance(exc, ssl.SSLError) else (exc.strerror or type(exc).__name__).lower()
            self.problems.append(f"AWS_CA_BUNDLE must be a file of certificates, {str(path)!r}: {why}")
        return path

    def sdk_log_level(self) -> str:
        level = self.choice("RUNPOD_LOG_LEVEL", "INFO", ("NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR"))
        if level not in {"TRACE", "DEBUG"}:
            return level
        self.warnings.append(f"RUNPOD_LOG_LEVEL={level} would put whole results into the log: INFO is used")
        return "INFO"

    def gpu_expected(self) -> bool | None:
        count = self.text("RUNPOD_GPU_COUNT", "")
        if self.flag("RUNPOD_SKIP_GPU_CHECK", default=False):
            return False
        return True if count.isdecimal() and int(count) > 0 else None

    def s3(self) -> S3Settings | None:
        bucket = self.text("S3_BUCKET", "")
        key_id, secret = self.text("AWS_ACCESS_KEY_ID", ""), self.text("AWS_SECRET_ACCESS_KEY", "")
        endpoint = self.url("AWS_ENDPOINT_URL")
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
                f"add AWS_ENDPOINT_URL=https://s3.{_b2_region(key_id)}.backblazeb2.com"
            )
        if "/" in bucket:
            self.problems.append("S3_BUCKET must be a bucket's name without slashes")  # keys may stand in a URL
        return S3Settings(
            bucket=bucket,
            access_key_id=key_id,
            secret_access_key=secret,
            endpoint_url=endpoint or None,
            region=self.text("AWS_REGION", self.text("AWS_DEFAULT_REGION", region_of(endpoint))),
            session_token=self.text("AWS_SESSION_TOKEN", "") or None,
            path_style=self.choice("S3_ADDRESSING_STYLE", "path" if endpoint else "virtual", ("path", "virtual")) == "path",
        )

    def url(self, name: str) -> str:
        url = self.text(name, "").rstrip("/")
        if not url:
            return ""
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.hostname and not (parts.username or parts.query) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # a port that is none, a host name with an empty label
            good = False
        if not good:
            self.problems.append(f"{name} must look like https://host[:port], without user, password or query")
        return url if good else ""


def _b2_region(key_id: str) -> str:
    """The region that an application key id belongs to. A master key id does not tell it."""
    return _B2_REGIONS.get(key_id[:3], "<region>") if len(key_id) > 12 else "<region>"


def region_of(endpoint: str) -> str:
    """The signing region that an endpoint implies: B2 and AWS carry it in the host name, R2 wants `auto`."""
    host = urlsplit(endpoint).hostname or ""
    if match := re.fullmatch(r"(?:[\w-]+\.)?s3[.-]([a-z0-9-]+)\.(?:backblazeb2\.com|amazonaws\.com)", host):
        return match[1]
    return "auto" if host.endswith(".r2.cloudflarestorage.com") else "us-east-1"
