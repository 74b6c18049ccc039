"""`make demo`: the worker's main job with real parts. Two boots in two empty cache directories against one empty bucket.

The first boot finds no cached copy and takes the weights from the hub, synthesises test_input.json and fills the bucket;
the second restores from the bucket. out/first.wav and out/second.wav are byte-identical.

DEMO_MODEL chooses the model: `F5TTS_v1_Base` (the real one, 1.4 GB from the Hugging Face hub), `tiny` (made on the spot, served by
a loopback stand-in for the hub; its audio is noise), or the path of a models file beside the folders of its files
(`<org>/<name>/<path>`), which is served the same way. Unset: the real one if the hub answers, else the tiny one.
DEMO_OUT is the folder for what it leaves (default: out).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from f5_worker.manifest import ModelSpec, load_models
from tests.fakes.hub_server import HubServer, hub_server
from tests.fakes.seaweed import Seaweed, seaweed
from tests.fakes.tiny_model import write_tiny_model
from tests.worker_process import ROOT, killed_after, worker_process

OUT = Path(os.environ.get("DEMO_OUT") or ROOT / "out").resolve()
BUCKET = "f5-demo"
REAL_MODEL = "F5TTS_v1_Base"
HUB_PROBE_S = 5
BOOT_TIMEOUT_S = 1800


@dataclass
class Model:
    """What the demo serves: one entry of a models file and, for all but the real one, the folder beside it."""

    spec: ModelSpec
    env: dict[str, str] = field(default_factory=dict)
    hub: HubServer | None = None

    @property
    def bytes(self) -> int:
        return sum(f.size_bytes for f in self.spec.files)


def main() -> int:
    wanted = wanted_model()
    shutil.rmtree(OUT / "demo", ignore_errors=True)
    (OUT / "demo").mkdir(parents=True)
    with ExitStack() as stack:
        model = stack.enter_context(choose_model(wanted))
        say(f"model {model.spec.name}: {len(model.spec.files)} files, {model.bytes / 1e6:.0f} MB, licence {model.spec.license}")
        say("starting SeaweedFS (a real S3 server) on loopback with an empty bucket")
        store = stack.enter_context(seaweed(OUT / "demo" / "seaweed"))
        store.client().create_bucket(Bucket=BUCKET)
        first = boot("first", model, store)
        second = boot("second", model, store)
        print_table(first, second)
        print_bucket(store)
        env = os.environ | store.env(BUCKET) | model.env | {"MODEL_CACHE_DIR": str(OUT / "demo" / "cache-second")}
        subprocess.run([sys.executable, "-m", "f5_worker", "cache", "status"], env=env, cwd=ROOT, check=True)
    same = (OUT / "first.wav").read_bytes() == (OUT / "second.wav").read_bytes()
    say(f"{shown(OUT / 'first.wav')} and {shown(OUT / 'second.wav')} are {'byte-identical' if same else 'DIFFERENT'}")
    from_bucket = {f["source"] for f in second["files"]} == {"bucket"} and second["hub_requests"] in {0, None}
    if not from_bucket:
        say("the second boot did NOT come from the bucket alone")
    return 0 if same and from_bucket else 1


def wanted_model() -> str:
    wanted = os.environ.get("DEMO_MODEL", "")
    if wanted not in {"", "tiny", REAL_MODEL} and not Path(wanted).is_file():
        say(f"DEMO_MODEL must be tiny, {REAL_MODEL} or the path of a models file; there is no {wanted}")
        sys.exit(2)
    return wanted


@contextmanager
def choose_model(wanted: str) -> Iterator[Model]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if wanted == REAL_MODEL or (not wanted and hub_answers(endpoint)):
        spec = load_models()[REAL_MODEL]
        say(f"taking the real {REAL_MODEL} from {endpoint}: 1.4 GB are downloaded once; DEMO_MODEL=tiny avoids it")
        yield Model(spec, {"F5_MODEL": REAL_MODEL, "HF_ENDPOINT": endpoint})
        return
    if wanted in {"", "tiny"}:
        why = "" if wanted else "the Hugging Face hub does not answer; "
        say(f"{why}using a TINY RANDOM demo model in the real file formats, made now. Its audio is NOISE, not speech.")
        models_file = write_tiny_model(OUT / "demo-model")
    else:
        models_file = Path(wanted).resolve()
    name = next(iter(json.loads(models_file.read_text(encoding="utf-8"))["models"]))
    with hub_server(models_file) as hub:
        env = {"F5_MODEL": name, "F5_MODELS_FILE": str(models_file), "HF_ENDPOINT": hub.url}
        yield Model(load_models(models_file)[name], env, hub)


def hub_answers(endpoint: str) -> bool:
    spec = load_models()[REAL_MODEL]
    url = f"{endpoint}/{spec.vocab.repo}/resolve/{spec.vocab.commit}/{spec.vocab.path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_PROBE_S) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def boot(name: str, model: Model, store: Seaweed) -> dict:
    """One boot of the worker in an empty cache directory; its boot report, with what the hub was asked."""
    cache_dir = OUT / "demo" / f"cache-{name}"
    say(f"--- {name} boot, cache dir {shown(cache_dir)} (empty)")
    for key in results(store):  # both boots write to one key: what is there afterwards is this boot's
        store.client().delete_object(Bucket=BUCKET, Key=key)
    before = (len(model.hub.requests), model.hub.sent_bytes) if model.hub else (0, 0)
    env = store.env(BUCKET) | model.env | {"MODEL_CACHE_DIR": str(cache_dir), "PUBLISH_JITTER_S": "0"}
    with tempfile.TemporaryDirectory() as home, worker_process(env, home=Path(home)) as worker, growth(cache_dir, model.bytes):
        code = follow(name, worker)
    if code != 0:
        sys.exit(f"the {name} boot ended with exit code {code}")
    report = json.loads((cache_dir / ".f5-worker" / "boot-report.json").read_text())
    report["hub_requests"] = len(model.hub.requests) - before[0] if model.hub else None
    report["hub_bytes"] = model.hub.sent_bytes - before[1] if model.hub else report["bucket"]["hub_bytes"]
    fetch_result(store, OUT / f"{name}.wav")
    return report


def follow(name: str, worker: subprocess.Popen[bytes]) -> int:
    """Show what the worker logs until it ends; its exit code."""
    assert worker.stdout
    with killed_after(worker, BOOT_TIMEOUT_S) as too_late:
        for line in worker.stdout:
            print(f"{name:>6} | {line.decode(errors='replace').rstrip()[:300]}", flush=True)
        code = worker.wait()
    if too_late.is_set():
        say(f"the {name} boot took longer than {BOOT_TIMEOUT_S} s and was ended")
    return code


def fetch_result(store: Seaweed, path: Path) -> None:
    """The audio that the worker put into the bucket."""
    keys = results(store)
    if len(keys) != 1:
        sys.exit(f"the worker was to leave one result in the bucket, there are {len(keys)}")
    store.client().download_file(BUCKET, keys[0], str(path))


def results(store: Seaweed) -> list[str]:
    return [o["Key"] for o in store.client().list_objects_v2(Bucket=BUCKET, Prefix="output/").get("Contents", [])]


@contextmanager
def growth(folder: Path, total_bytes: int) -> Iterator[None]:
    """Say every few seconds how much of a large download has arrived."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(5):
            have = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
            if have < total_bytes:
                say(f"{have / 1e6:.0f} of {total_bytes / 1e6:.0f} MB on the disk")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def print_table(first: dict, second: dict) -> None:
    print(f"\n{'phase':<28}{'seconds':>9}{'bytes':>14}  source   boot")
    for name, report in (("first", first), ("second", second)):
        for phase in report["phases"]:
            size = f"{phase['bytes']:,}" if phase["bytes"] else "-"
            print(f"{phase['name']:<28}{phase['end_s'] - phase['start_s']:>9.2f}{size:>14}  {phase['source'] or '-':<8} {name}")
        sources = ",".join(sorted({f["source"] for f in report["files"]}))
        print(f"{'READY':<28}{report['ready_s']:>9.2f}{report['bytes']:>14,}  {sources:<8} {name}")
        print(f"{'asked of the hub':<28}{'-':>9}{report['hub_bytes']:>14,}  hub      {name}")


def print_bucket(store: Seaweed) -> None:
    print("\nbucket, oldest first (times have a resolution of one second; within one, by name):")
    objects = store.client().list_objects_v2(Bucket=BUCKET)["Contents"]
    for o in sorted(objects, key=lambda o: o["LastModified"]):
        print(f"  {o['LastModified']:%H:%M:%S} {o['Size']:>14,}  {o['Key']}")
    print()


def shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; unwinds to the end of the program, so that every server and worker is ended on the way."""


def interrupt(number: int, _frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # an impatient second Ctrl-C must not stop the clearing up
    raise Interrupted(number)


if __name__ == "__main__":
    start = time.monotonic()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)
    try:
        code = main()
    except Interrupted as exc:
        code = 128 + exc.args[0]
    say(f"finished in {time.monotonic() - start:.0f} s, exit code {code}")
    sys.exit(code)
