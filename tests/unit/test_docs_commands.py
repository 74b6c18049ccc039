"""Every command that the documents tell somebody to type is run by a test, or by CI; or its line says what it would need."""

from __future__ import annotations

import re

import pytest

from tests.worker_process import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]  # decisions tell what was
COMMAND = r"(?:[A-Z_]+=\S+ )*(?:make|bash|docker|b2|(?:\.venv/bin/)?python) [^`#]+"
# How a command begins -> the test that runs what it runs; for what a test cannot run within itself, the file of CI that does.
RUN_BY = {
    "make venv": "Makefile::venv: $(READY)",
    "make demo": "tests/e2e/test_demo.py::test_the_demo_boots_twice_and_the_second_boot_comes_from_the_bucket_alone",
    "make test": ".github/workflows/ci.yml::make test",
    "make check": ".github/workflows/ci.yml::make check",
    "bash .ci/run": ".ci/run::make test",
    "python handler.py --test_input": "tests/e2e/test_requests.py::test_every_request_gives_the_audio_that_its_result_describes",
    "python -m f5_worker boot-report": "tests/integration/test_cli.py::test_a_boot_report_becomes_a_picture_and_a_trace",
    "python -m f5_worker cache": "tests/integration/test_cli.py::test_push_fills_an_empty_bucket_from_the_hub_and_status_and_verify_agree",
    "python -m f5_worker cache gc": "tests/integration/test_cli.py::test_gc_deletes_what_nothing_needs_and_only_when_told",
    "python -m f5_worker doctor": "tests/integration/test_doctor.py::test_wrong_settings_are_exit_code_2_and_the_line_to_add_can_be_copied",
    "python -m f5_worker.docs": "tests/unit/test_docs_commands.py::test_the_generator_writes_its_documents",
    "python -m f5_worker selftest": "tests/model/test_selftest.py::test_command_reports_every_preset_of_the_tiny_model",
    "make studio": "tests/e2e/test_studio_page.py::test_the_studio_speaks_without_a_network_and_says_that_it_is_noise",
    "make studio-test": "tests/e2e/test_studio_page.py::test_a_text_is_spoken_and_shown",
    "python -m f5_worker studio": "tests/unit/test_studio.py::test_ctrl_c_ends_the_command_and_cancels_its_jobs",
    "python -m f5_worker say": "tests/e2e/test_client.py::test_a_dialogue_of_several_parts_is_spoken_into_one_file",
    "python -m f5_worker validate": "tests/e2e/test_client.py::test_an_endpoint_that_works_is_validated",
}
# How a command begins -> what a line that has it says of why no test runs it.
NOT_RUN = {
    "make bench": "hour",
    "python -m benchmarks.report": "make bench",
    "docker build": "needs an account",
    "docker run --rm": "needs an account",
    "b2 key create": "needs an account",
    "RUNPOD_API_KEY=... python -m f5_worker validate": "needs an account",
    "RUNPOD_API_KEY=... make studio": "needs an account",
}


def commands() -> list[tuple[str, str]]:
    """Each command, in code blocks and in running text, with its line."""
    found = []
    for document in DOCUMENTS:
        is_fenced = False
        for line in document.read_text(encoding="utf-8").splitlines():
            is_fenced ^= line.lstrip().startswith("```")
            in_block = re.match(COMMAND, line.lstrip()) if is_fenced or line.startswith("    ") else None
            texts = [in_block[0]] if in_block else re.findall(f"`({COMMAND})`", line)
            found += [(text.strip().replace(".venv/bin/", ""), line) for text in texts]
    return found


def beginning(command: str) -> str | None:
    """The longest key that the command begins with."""
    return max((key for key in (*RUN_BY, *NOT_RUN) if f"{command} ".startswith(f"{key} ")), key=len, default=None)


def test_every_command_is_run_by_a_test_or_says_what_it_needs():
    seen = commands()
    assert len(seen) > 20
    assert [command for command, _ in seen if beginning(command) is None] == []
    for key, mark in NOT_RUN.items():
        assert any(mark in line for command, line in seen if beginning(command) == key), f"no line with `{key}` says: {mark}"


def test_nothing_is_listed_that_no_document_has():
    assert set(RUN_BY) | set(NOT_RUN) == {beginning(command) for command, _ in commands()}


def test_what_is_typed_in_a_checkout_names_the_environments_python():
    typed = [
        line.strip() for document in DOCUMENTS for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("    ")
    ]
    assert [line for line in typed if line.startswith("python ")] == []


@pytest.mark.parametrize("runner", RUN_BY.values())
def test_what_runs_a_command_exists(runner):
    file, _, name = runner.partition("::")
    assert (f"def {name}(" if file.endswith(".py") else name) in (ROOT / file).read_text(encoding="utf-8")


def test_the_generator_writes_its_documents(tmp_path):
    from f5_worker import docs

    docs.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(docs.render())
