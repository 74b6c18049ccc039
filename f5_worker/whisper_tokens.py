"""Whisper's vocabulary: text to tokens and back, and the ids of its control tokens.

The byte-pair merges come from the file that the package openai-whisper ships; the package itself, which needs numba, is not imported.
"""

from __future__ import annotations

import base64
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

# GPT-2's split of text into what merges may join.
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_CONTROLS_AFTER_LANGUAGES = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


@dataclass(frozen=True)
class Tokens:
    """Ids below `end` are text. Above it follow the start of the transcript, the languages, the tasks and the timestamps."""

    encoding: tiktoken.Encoding
    languages: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.encoding.n_vocab

    @property
    def start(self) -> int:
        return self.end + 1

    def language(self, code: str) -> int:
        """Raises ValueError when the model was not trained on the language."""
        return self.start + 1 + self.languages.index(code)

    def control(self, name: str) -> int:
        """One of translate, transcribe, startoflm, startofprev, nospeech and notimestamps."""
        return self.start + 1 + len(self.languages) + _CONTROLS_AFTER_LANGUAGES.index(name)

    def prompt(self, language: str) -> list[int]:
        """What the decoder is given before the words: transcribe this language, without timestamps."""
        return [self.start, self.language(language), self.control("transcribe"), self.control("notimestamps")]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; what looks like a control token in it is text."""
        return self.encoding.encode_ordinary(text)

    def decode(self, tokens: list[int]) -> str:
        """The text of text tokens; a character that was cut off in the middle becomes U+FFFD."""
        return self.encoding.decode(tokens)

    def spelled(self, token: int) -> bytes:
        """The bytes of one text token, which may be a part of a character."""
        return self.encoding.decode_single_token_bytes(token)


def load_tokens(languages: tuple[str, ...]) -> Tokens:
    """The multilingual vocabulary (50,257 text tokens) with the languages of a checkpoint.

    Raises:
        ImportError: tiktoken or openai-whisper is not installed.
    """
    import tiktoken  # noqa: PLC0415 - only who transcribes or aligns needs it

    spec = importlib.util.find_spec("whisper")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("openai-whisper is not installed", name="whisper")
    file = Path(next(iter(spec.submodule_search_locations))) / "assets" / "multilingual.tiktoken"
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in (line.split() for line in file.read_bytes().splitlines() if line)}
    return Tokens(tiktoken.Encoding("whisper", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}), languages)
