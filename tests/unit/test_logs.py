"""Logging: one line a record, the job's id, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from f5_worker import logs

SECRET = 'K005/abc+"x\\y='


@pytest.fixture(autouse=True)
def _logging_as_before():
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in logs.OURS}
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(*, as_json: bool = False, level: str = "INFO"):
    stream = io.StringIO()
    logs.set_up(level=level, as_json=as_json, secrets=(SECRET, "", None), stream=stream)
    return logging.getLogger("f5_worker.test"), stream


def test_set_up_wins_over_a_library_that_configured_logging_first():
    logging.basicConfig(level=logging.DEBUG, handlers=[logging.StreamHandler(io.StringIO())])
    log, stream = lines()
    log.info("boot.ready seconds=%.1f", 1.5)
    assert stream.getvalue().endswith("INFO    f5_worker.test boot.ready seconds=1.5\n")
    assert len(logging.getLogger().handlers) == 1


def test_other_libraries_speak_from_warning_on_even_at_debug():
    log, stream = lines(level="DEBUG")
    logging.getLogger("botocore.auth").debug("CanonicalRequest: …")
    logging.getLogger("httpx").info("GET https://…")
    log.debug("ours")
    assert stream.getvalue().count("\n") == 1


def test_the_job_id_is_on_every_line_of_its_job():
    log, stream = lines()
    token = logs.job_id.set("job-7")
    log.info("job.start")
    logs.job_id.reset(token)
    log.info("idle")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("job.start job=job-7")
    assert "job=" not in second


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("shown", [SECRET, repr(SECRET), json.dumps(SECRET), "a%2Fb K005%2Fabc%2B%22x%5Cy%3D"])
def test_a_known_secret_is_never_written_in_any_of_its_forms(as_json, shown):
    log, stream = lines(as_json=as_json)
    log.error("failed with %s", shown)
    assert "abc" not in stream.getvalue()
    assert logs.REDACTED in stream.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_secret_in_a_traceback_is_not_written(as_json):
    log, stream = lines(as_json=as_json)
    log.error("put failed", exc_info=ValueError(f"signing with {SECRET} failed"))
    assert "ValueError" in stream.getvalue()
    assert "abc" not in stream.getvalue()


def test_a_secret_too_short_to_be_one_leaves_the_log_readable():
    stream = io.StringIO()
    logs.set_up(secrets=("k", ""), stream=stream)
    logging.getLogger("f5_worker.test").info("bucket")
    assert "bucket" in stream.getvalue()


def test_signatures_of_urls_are_not_written_though_nobody_named_them():
    log, stream = lines()
    log.info("GET https://b/k?X-Amz-Credential=AKIA%2F1&X-Amz-Date=1&X-Amz-Signature=feed0123 done")
    assert "feed0123" not in stream.getvalue()
    assert "AKIA" not in stream.getvalue()
    assert "X-Amz-Date=1" in stream.getvalue()


def test_a_message_cannot_forge_a_second_line():
    log, stream = lines()
    log.info("name=%s", "x\n2026-01-01 ERROR forged")
    assert stream.getvalue().count("\n") == 1


def test_json_lines_carry_the_keys_of_the_platform():
    log, stream = lines(as_json=True)
    token = logs.job_id.set("job-7")
    log.warning("half\nway")
    logs.job_id.reset(token)
    line = json.loads(stream.getvalue())
    assert (line["requestId"], line["level"], line["message"], line["logger"]) == ("job-7", "WARNING", "half\nway", "f5_worker.test")


UNCAUGHT = """
import threading, warnings
from f5_worker import logs
from f5_worker.settings import Settings
env = {"RUNPOD_ENDPOINT_ID": "e", "OTEL_EXPORTER_OTLP_HEADERS": "x-token=collector-token,y=another-token"}
logs.set_up_for(Settings.from_env(env), env)
warnings.warn("a warning with collector-token")
thread = threading.Thread(target=lambda: 1 / 0, name="worker of mine")
thread.start()
thread.join()
raise ValueError("a defect with another-token")
"""


def test_on_the_platform_warnings_and_defects_are_json_lines_too_and_hold_no_token():
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False, timeout=60)
    warning, thread, defect = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 1
    assert (warning["logger"], warning["level"]) == ("py.warnings", "WARNING")
    assert (thread["message"], "ZeroDivisionError" in thread["exception"]) == ("thread.failed name=worker of mine", True)
    assert (defect["message"], "ValueError: a defect" in defect["exception"]) == ("process.failed", True)
    assert "-token" not in done.stderr
