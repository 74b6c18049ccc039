"""Whisper's tokens: the same as openai-whisper's tokenizer, whose file alone is loaded (its package needs numba)."""

from __future__ import annotations

import ast
import base64
import gzip
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from f5_worker.manifest import load_transcriber
from f5_worker.whisper_tokens import Tokens, load_tokens

# ruff: noqa: RUF001 - texts of many scripts
TEXTS = (
    "Hello, world!",
    " Hello",
    "don't you'll THEY'RE",
    "3.50 dollars on 2024-05-01",
    "  two   spaces\n\nand lines\t",
    "naïve café – “quoted”…",
    "你好，世界。",
    "我们在上海 hello 世界",
    "こんにちは、元気？",
    "안녕하세요 세계",
    "สวัสดีครับ",
    "مرحبا بالعالم؟",
    "नमस्ते दुनिया।",
    "Привет, мир",
    "😀 emoji 👩\u200d👩\u200d👧",
    "<|endoftext|> is text",
    "မင်္ဂလာပါ",
    "\u0000\u200b",
    "",
)


def package_file(name: str) -> Path:
    (folder,) = importlib.util.find_spec("whisper").submodule_search_locations
    return Path(folder) / name


@pytest.fixture(scope="module")
def theirs() -> Any:
    spec = importlib.util.spec_from_file_location("openai_whisper_tokenizer", package_file("tokenizer.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it does not close its file
        return module.get_tokenizer(multilingual=True, num_languages=100, language="fr", task="transcribe")


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return load_tokens(load_transcriber().languages)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_the_tokens_that_openai_whisper_gives_it(text: str, tokens: Tokens, theirs: Any) -> None:
    found = tokens.encode(text)
    assert found == theirs.encode(text, disallowed_special=())
    assert tokens.decode(found) == theirs.decode(found) == text
    assert b"".join(map(tokens.spelled, found)) == text.encode()


def test_the_control_tokens_are_openai_whispers(tokens: Tokens, theirs: Any) -> None:
    assert (tokens.start, tokens.end) == (theirs.sot, theirs.eot) == (50_258, 50_257)
    assert list(map(tokens.language, tokens.languages)) == list(map(theirs.to_language_token, tokens.languages))
    assert sorted(map(tokens.language, tokens.languages)) == sorted(theirs.all_language_tokens)
    named = {"translate": theirs.translate, "transcribe": theirs.transcribe, "startoflm": theirs.sot_lm, "startofprev": theirs.sot_prev,
             "nospeech": theirs.no_speech, "notimestamps": theirs.no_timestamps}  # fmt: skip
    assert {name: tokens.control(name) for name in named} == named
    assert tokens.prompt("fr") == list(theirs.sot_sequence_including_notimestamps)


def test_the_pinned_checkpoint_has_a_row_for_every_token(tokens: Tokens, theirs: Any) -> None:
    assert load_transcriber().arch["vocab_size"] == theirs.encoding.n_vocab


def test_the_alignment_heads_are_those_that_openai_whisper_names() -> None:
    tree = ast.parse(package_file("__init__.py").read_text())
    [table] = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "_ALIGNMENT_HEADS"]
    packed = ast.literal_eval(table)["large-v3-turbo"]
    arch = load_transcriber().arch
    shape = (arch["decoder_layers"], arch["decoder_attention_heads"])
    named = np.frombuffer(gzip.decompress(base64.b85decode(packed)), dtype=bool).reshape(shape)
    assert np.argwhere(named).tolist() == [list(pair) for pair in load_transcriber().alignment_heads]


def test_an_unknown_language_has_no_token(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        tokens.prompt("tlh")


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="openai-whisper"):
        load_tokens(("en",))
