"""docs/settings.md, written from settings.py by `python -m f5_worker.docs`.

Defaults are what the reader says, errors what it raises for a wrong value: neither is written down a second time.
"""

from __future__ import annotations

from f5_worker.errors import SettingsError
from f5_worker.manifest import load_model
from f5_worker.settings import MEANING, Settings

_BUCKET = {"S3_BUCKET": "bucket", "AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "secret"}  # with it every variable is read
_WRONG = ("wrong", "../wrong", "a/b", "")
_ELSEWHERE = {
    "HF_TOKEN": "Access token for a gated or private repository; read by the Hugging Face client and the doctor.",
    "HF_ENDPOINT": "Another address of the hub; read by the Hugging Face client and the doctor.",
    "HF_HUB_ETAG_TIMEOUT": "Seconds that the hub may take to answer; the worker sets 5 where it is unset.",
    "HF_HUB_DOWNLOAD_TIMEOUT": "Seconds of silence in a download from the hub; the worker sets 10 where it is unset.",
    "RUNPOD_INIT_TIMEOUT": "Seconds that RunPod gives a worker to start (420 where it is unset).",
}
_HEAD = """# Settings

Written by `python -m f5_worker.docs` from f5_worker/settings.py. Every variable is optional; with a bucket its two credentials are
needed. A wrong one ends the boot with exit code 2 and one line, `SETTINGS_INVALID`, that names every bad variable;
`python -m f5_worker doctor` checks all of them.

| variable | default | meaning | a wrong value is told so |
|---|---|---|---|
"""
_OTHERS = """
Read by other programs in the container:

| variable | meaning |
|---|---|
"""


def render() -> str:
    """The whole page. Raises KeyError for a variable that is read and has no meaning in settings.MEANING."""
    defaults: dict[str, str] = {}
    Settings.from_env(_BUCKET, on_read=defaults.setdefault)
    rows = [_row(name, default, MEANING[name], _error(name)) for name, default in sorted(defaults.items(), key=_place)]
    others = [f"| `{name}` | {meaning} |\n" for name, meaning in _ELSEWHERE.items()]
    return _HEAD + "".join(rows) + _OTHERS + "".join(others)


def _place(item: tuple[str, str]) -> int:
    return list(MEANING).index(item[0])


def _row(name: str, default: str, meaning: str, error: str) -> str:
    return f"| `{name}` | {f'`{default}`' if default else 'unset'} | {meaning} | {error.replace('|', chr(92) + '|')} |\n"


def _error(name: str) -> str:
    """What the first wrong value that is refused is told, a dash where any text is taken."""
    for value in _WRONG:
        try:
            settings = Settings.from_env(_BUCKET | {name: value})
            load_model(settings.model, settings.models_file)
        except SettingsError as exc:
            return f"{(exc.args[1:] or exc.args)[0]}"
    return "-"
