"""First process of the container: settings, cache directory, start of the restore, then the handler in this same process.

The handler is exec'd, not started: it keeps the PID (so SIGTERM reaches it) and the environment, so HF_HOME is what this
file chose. Nothing here imports torch or runpod; the first byte of the weights is asked for before they are imported.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from f5_worker import boot, hub, logs
from f5_worker.cache import HubCache
from f5_worker.errors import SettingsError, WorkerError
from f5_worker.manifest import load_model
from f5_worker.placement import choose
from f5_worker.report import EXEC_UNIX_S
from f5_worker.settings import Settings
from s3_utils import S3Store

log = logging.getLogger("model_cache_init")
HANDLER = Path(__file__).with_name("handler.py")
EXIT_SETTINGS = 2


def main(arguments: list[str]) -> NoReturn:
    # The kernel drops a signal that PID 1 does not listen to: it waits until the handler does, also across the exec.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    env = dict(os.environ)
    logs.set_up(as_json=bool(os.environ.get("RUNPOD_ENDPOINT_ID")))
    try:
        settings = Settings.from_env(env)
        logs.set_up_for(settings, env)
        spec = load_model(settings.model, settings.models_file)
    except SettingsError as exc:
        log.error("boot.failed error=%r", str(exc))  # noqa: TRY400 - the message says it all
        sys.exit(EXIT_SETTINGS)
    hub.set_client_env(env, HubCache(settings.cache_dir or settings.cache_dir_candidates[0]))
    try:
        caches = choose(settings, spec.files)
        hub.set_client_env(env, caches[0])
        store = S3Store(settings.cache_bucket) if settings.cache_bucket else None
        boot.start_restore(spec.files, caches, settings, store, env)
        boot.start_wheel(caches[0], settings, store, env)
    except (WorkerError, OSError) as exc:  # the handler tries again and has the last word
        log.error("boot.restore_not_started error=%r", str(exc))  # noqa: TRY400
    env[EXEC_UNIX_S] = str(time.time())
    log.info("boot.exec HF_HOME=%s HF_HUB_CACHE=%s model=%s", env["HF_HOME"], env["HF_HUB_CACHE"], spec.name)
    os.execve(sys.executable, [sys.executable, "-u", str(HANDLER), *arguments], env)  # noqa: S606 - our own interpreter and file


if __name__ == "__main__":
    main(sys.argv[1:])
