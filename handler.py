"""Composition root: settings -> engine -> weights -> store, publisher and service -> RunPod's job loop.

model_cache_init.py becomes this program; started by hand it restores the weights itself. Exit codes: 2 the settings or the
arguments are wrong, 3 the weights or the model are; either is said in one line of the log. 130 interrupted from the keyboard.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from f5_worker import boot, channel, fitness, local, logs, report, wheels
from f5_worker.ahead import prepare_when_idle, preparing
from f5_worker.cache import HubCache
from f5_worker.errors import CacheError, RequestError, SettingsError, WorkerError
from f5_worker.jobs import Channel, gpu_slot
from f5_worker.manifest import ModelSpec, load_model, load_transcriber
from f5_worker.publish import Publisher
from f5_worker.report import Phase, Timeline, process_start_unix_s
from f5_worker.restore import RestoreReport
from f5_worker.service import Service
from f5_worker.settings import S3Settings, Settings
from f5_worker.stand_ins import StandIn, standing_in
from f5_worker.store import Store
from f5_worker.telemetry import Traces
from f5_worker.transcribe import Transcriber, WeightsOnDemand
from s3_utils import S3Store

if TYPE_CHECKING:
    from f5_worker.engine import Engine

log = logging.getLogger(__name__)

CONCURRENCY = 2  # one job's downloads and uploads overlap the other's synthesis; the service has one GPU slot
EXIT_SETTINGS = 2
EXIT_MODEL = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
LOCAL_PUBLISH_S = 1800.0  # a local run ends after one job: the bucket is seeded first, for at most this long


def main() -> int:
    """Serve until the platform stops the process; the exit code."""
    signal.signal(signal.SIGTERM, _stop)  # the SDK sets its own when it starts
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked by the boot
    logs.set_up(as_json=bool(os.environ.get("RUNPOD_ENDPOINT_ID")))
    try:
        local.check_arguments(sys.argv)
        serve(Settings.from_env(os.environ))
    except WorkerError as error:
        log.error("handler.failed error=%r", str(error))  # noqa: TRY400 - the message says what to do; a traceback would bury it
        return EXIT_SETTINGS if isinstance(error, SettingsError | RequestError) else EXIT_MODEL
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def serve(settings: Settings) -> None:
    """Load the model, then run the job loop until the process is asked to end.

    Raises:
        SettingsError: no models file has the wanted model.
        WorkerError: the weights or the model cannot be had.
    """
    spec, of_speech = load_model(settings.model, settings.models_file), load_transcriber(settings.models_file)
    cache_store = S3Store(settings.cache_bucket) if settings.cache_bucket else None
    ask_hub = "HF_HUB_OFFLINE" not in os.environ  # the boot sets it later for everybody
    timeline = Timeline(process_start_unix_s())
    began_s = float(os.environ.get(report.EXEC_UNIX_S, timeline.started_unix_s)) - timeline.started_unix_s
    timeline.add(Phase("start handler", "handler", began_s, timeline.now_s()))

    # The imports need no file: the boot's child fetches the weights meanwhile.
    with timeline.phase("import runpod", lane="handler"):
        sdk = import_sdk(settings.sdk_log_level)
    logs.set_up_for(settings, os.environ)
    with timeline.phase("check GPU", lane="handler"):
        fitness.check(settings)
    with timeline.phase("import torch", lane="handler"):
        from f5_worker.backend import choose_backend  # noqa: PLC0415 - after the logs and the signal handler are set
        from f5_worker.engine import Engine  # noqa: PLC0415
    with timeline.phase("wait for flash-attn", lane="handler"):
        wheel = boot.join_wheel(os.environ)
        wheels.activate(wheel, settings.flash_attn, sys.modules, sys.path)  # type: ignore[arg-type] # None blocks an import
    with timeline.phase("build model", lane="handler"):
        backend = choose_backend(settings.flash_attn)
        engine = Engine.build(spec, backend)
    slot = gpu_slot()
    rehearsal = Rehearsal(engine, timeline)
    first = [rehearsal.run] if backend.device.type == "cuda" else []
    with timeline.phase("wait for weights", lane="handler"), preparing(slot, *first):
        restored = boot.join(spec.files, settings, cache_store, os.environ, timeline=timeline)
    rehearsal.wait()
    with timeline.phase("load model", lane="handler"):
        engine.load(restored.paths)
    with timeline.phase("warm up", lane="handler"):
        slot.submit(engine.warm_up).result()

    booted = boot_report(spec, engine, [*restored.phases, *wheel.phases], restored, timeline)
    keep(booted, restored)
    traces = Traces(settings, os.environ)
    traces.boot(booted)
    on_demand = WeightsOnDemand(settings, cache_store, ask_hub=ask_hub)
    store = job_store(settings.s3) if settings.s3 else None
    service = Service(
        engine,
        settings,
        store,
        boot=lambda: booted,
        transcriber=Transcriber(of_speech, on_demand.restore, backend),
        new_store=callers_store,
        open_channel=channel_opener() if serves_the_queue(sys.argv, os.environ) else None,
        slot=slot,
    )
    one_job = runs_one_job(sys.argv, os.environ)
    handle = traces.of_jobs(local.readable(service.handle) if one_job else service.handle)
    publisher = Publisher(cache_store, settings, spec.files, restored).start() if cache_store else None
    prepare_when_idle(slot, *([store.opened] if store else []))
    try:
        sdk.serverless.start({"handler": handle, "concurrency_modifier": lambda _current: CONCURRENCY})
    finally:  # also on SystemExit, by which the SDK ends a local run
        on_demand.stop()
        end(publisher, wait=one_job)
        traces.stop()


class Rehearsal:
    """CUDA loads its kernels when they are first used, which takes longer than loading the weights (docs/decisions/0022)."""

    def __init__(self, engine: Engine, timeline: Timeline) -> None:
        self._engine, self._timeline = engine, timeline
        self._ended = threading.Event()
        self._ended.set()

    def run(self) -> None:
        self._ended.clear()
        try:
            with self._timeline.phase("rehearse", lane="gpu"):
                self._engine.rehearse()
        except (WorkerError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, OSError) as error:
            log.warning("boot.rehearsal_failed error=%r effect='the warm-up takes longer'", str(error))
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Until one that has begun has ended: beside it the load would take twice the memory."""
        if not self._ended.is_set():
            with self._timeline.phase("wait for rehearsal", lane="handler"):
                self._ended.wait()


def import_sdk(log_level: str = "INFO") -> ModuleType:
    """RunPod's SDK. It reads the environment and calls logging.basicConfig when it is imported."""
    os.environ["RUNPOD_LOG_LEVEL"] = log_level  # its default, DEBUG, writes whole results into the log
    for name in ("RUNPOD_SKIP_GPU_CHECK", "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"):  # the boot has checked itself (docs/decisions/0018)
        os.environ.setdefault(name, "true")
    # At import the SDK asks py-cpuinfo for the name of the processor, which runs programs for 1.1 s; paramiko is for its command line.
    cpuinfo = ModuleType("cpuinfo")
    cpuinfo.get_cpu_info = lambda: {"brand_raw": processor_name()}  # type: ignore[attr-defined]
    with standing_in({"cpuinfo": cpuinfo, "paramiko": StandIn("paramiko")}):
        import runpod  # noqa: PLC0415 - 0.3 s, and only after the lines above
    sdk: ModuleType = runpod
    return sdk


def processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def job_store(s3: S3Settings) -> S3Store:
    """A bucket for the files of jobs, which have no time to wait for it."""
    return S3Store(s3, read_timeout_s=5.0, attempts=2)


def callers_store(s3: S3Settings) -> Store:
    """A bucket that a job brings along. Raises StoreError for an endpoint that cannot be used, before anything is computed."""
    return job_store(s3).opened()


def channel_opener() -> Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Channel]]:
    """Opens the queue's channel for a job, with the SDK's addresses and credentials."""
    from runpod.http_client import AsyncClientSession  # noqa: PLC0415 - as import_sdk
    from runpod.serverless.modules import rp_http  # noqa: PLC0415

    urls = {"stream_url": rp_http.JOB_STREAM_URL, "done_url": rp_http.JOB_DONE_URL}
    return lambda job: channel.opened(AsyncClientSession, str(job["id"]), **urls)


def boot_report(
    spec: ModelSpec, engine: Engine, of_children: Sequence[Phase], restored: RestoreReport, timeline: Timeline
) -> dict[str, Any]:
    """How this worker became ready. `health` shows it to clients, so it names no local path."""
    for phase in of_children:  # a restore in this process has written its own into the timeline already
        if phase not in timeline.phases:
            timeline.add(phase)
    return report.compose(timeline, model=spec.name, files=restored.files_json(), bucket=restored.bucket_json(), engine=engine.describe())


def keep(booted: Mapping[str, Any], restored: RestoreReport) -> None:
    """Log the boot report's summary and leave the whole beside the cache."""
    log.info("%s", report.summary_line(booted))
    try:
        if restored.cache_dir:
            HubCache(restored.cache_dir).write_state("boot-report.json", booted)
    except CacheError as error:
        log.warning("boot.report_not_kept error=%r", str(error))


def end(publisher: Publisher | None, *, wait: bool) -> None:
    """Stop publishing, orderly also when a signal interrupts the wait."""
    if publisher is None:
        return
    try:
        if wait and not publisher.wait(LOCAL_PUBLISH_S):
            log.warning("publish outcome=late seconds=%.0f effect='the next run goes on with it'", LOCAL_PUBLISH_S)
    finally:
        publisher.stop()


def runs_one_job(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether the SDK runs one job and ends the process: --test_input or test_input.json, and no --rp_serve_api."""
    local = any(arg.startswith("--test_input") for arg in argv) or "RUNPOD_WEBHOOK_GET_JOB" not in env
    return local and "--rp_serve_api" not in argv


def serves_the_queue(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether jobs come from the platform's queue: not from a terminal, and not over the SDK's own HTTP server."""
    return not runs_one_job(argv, env) and "--rp_serve_api" not in argv and env.get("RUNPOD_REALTIME_PORT", "0") == "0"


def _stop(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":  # the SDK's ping process may import this module again
    sys.exit(main())
