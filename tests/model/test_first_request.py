"""The first request of a kind is no slower than the later ones: nothing is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FIRST_REQUESTS = """
import asyncio, base64, importlib, io, sys
from pathlib import Path
import soundfile
from f5_worker import ahead, manifest
from f5_worker.engine import Engine
from f5_worker.jobs import gpu_slot
from f5_worker.reference import default_voice
from f5_worker.service import Service
from f5_worker.settings import Settings

tiny = Path(sys.argv[1])
spec = manifest.load_models(tiny / "models.json")["demo-tiny"]
engine, slot = Engine.build(spec), gpu_slot()
for name in ahead.MODULES:
    slot.submit(importlib.import_module, name).result()
engine.load({file: tiny / file.repo / file.path for file in spec.files})
slot.submit(engine.warm_up).result()
service, voice, recording = Service(engine, Settings(), None, boot=dict, slot=slot), default_voice(), io.BytesIO()
soundfile.write(recording, voice.samples, voice.sample_rate_hz, format="WAV")
own = {"ref_audio": {"base64": base64.b64encode(recording.getvalue()).decode()}, "ref_text": voice.text}
for asked in (
    {}, {"input": "It costs $3.50 \\u2014 since May 5, 2024\\u2026"}, {"input": "\\u4f60\\u597d\\uff0c\\u4e16\\u754c\\u3002"}, own,
    *({"response_format": name} for name in ("flac", "mp3", "opus", "aac", "pcm")), {"stream_format": "audio", "response_format": "pcm"},
    {"speed": 2.0}, {"remove_silence": True}, {"subtitles": ["srt"]}, {"sample_rate": 16000},
):
    before = set(sys.modules)
    result = asyncio.run(service.handle({"id": "job", "input": {"input": "Hi.", "nfe_step": 1, "seed": 1} | asked}))
    assert "error" not in result, result
    new = {name for name in set(sys.modules) - before if not name.startswith("av.")}  # it imports two small ones of its own at first use
    assert not new, (asked, sorted(new))
"""


def test_no_ordinary_request_imports_anything_after_the_warm_up(tiny: Path) -> None:
    command = [sys.executable, "-c", FIRST_REQUESTS, str(tiny)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
