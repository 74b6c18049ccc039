"""One restore or publication in a process of its own, for tests that kill it: `python -m tests.integration.runner restore|publish ROOT`.

Takes the worker's settings from the environment and the files of tests.integration.conftest; HF_ENDPOINT names the hub.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from f5_worker import logs
from f5_worker.placement import choose
from f5_worker.publish import Publisher
from f5_worker.report import Timeline, process_start_unix_s
from f5_worker.restore import restore
from f5_worker.settings import Settings
from s3_utils import S3Store
from tests.integration.conftest import FILES


def main(action: str, root: Path) -> int:
    candidates = (root / "first", root / "second")
    settings = replace(Settings.from_env(os.environ), cache_dir_candidates=candidates, platform_cache=root / "platform")
    logs.set_up_for(settings, os.environ)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    assert settings.s3
    store = S3Store(settings.s3)
    report = restore(
        FILES,
        choose(settings, FILES),
        settings,
        store if action == "restore" else None,
        timeline=Timeline(process_start_unix_s()),
        stop=stop,
    )
    if action == "publish":
        publisher = Publisher(store, settings, FILES, report).start()
        while not publisher.wait(0.02):
            if stop.is_set():
                publisher.stop()
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
