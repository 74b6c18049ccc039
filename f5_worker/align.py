"""When each word of a known text is said: Whisper listens to the sound while it is told the text, and its attention shows where it looks.

The decoder's alignment heads follow the speech (openai-whisper's word timestamps use the same heads and the same normalisation). The
path through their attention is found by dynamic time warping with the asymmetric step pattern: each frame belongs to one token, in order.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from f5_worker.audio import Samples
from f5_worker.levels import WINDOWS_PER_S, loud_windows
from f5_worker.transcribe import Transcriber

if TYPE_CHECKING:
    import torch

    from f5_worker.whisper_tokens import Tokens

_FRAMES_PER_S = 50
_MEDIAN_FRAMES = 7
_PAUSE_WINDOWS = 10  # 100 ms: silence inside a word, before a plosive, is shorter
_SPILL_WINDOWS = 12  # attention is exact to about a tenth of a second
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han. A word is then what one token spells.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class AlignedWord:
    """One word of the text, punctuation included, and when it is heard."""

    start: int  # characters of the text
    end: int
    start_s: float
    end_s: float


@dataclass
class _Word:
    start: int
    end: int
    tokens: int  # how many spell it


def align(transcriber: Transcriber, samples: Samples, rate_hz: int, text: str, *, language: str | None = None) -> list[AlignedWord]:
    """The words of a text that is spoken in a mono recording, in order, without overlap, within the recording.

    Empty when that cannot be told: no words, more sound than the model hears at once (30 s), more text than fits in it, silence.

    Args:
        language: Code; None: told by the sound.
    Raises:
        RequestError: no language that the model knows.
        TranscriberUnavailable, OutOfMemory
    """
    code = transcriber.code(language)
    loud = loud_windows(samples, rate_hz)
    frames = math.ceil(len(samples) / rate_hz * _FRAMES_PER_S)
    with transcriber.loaded() as whisper:
        spelling, words = spell(text, whisper.tokens)
        longest = min(whisper.max_tokens - len(whisper.tokens.prompt(whisper.tokens.languages[0])), frames) - 1
        if not loud or not words or len(spelling) > longest or frames > whisper.window_s * _FRAMES_PER_S:
            return []
        heard = whisper.listen(samples, rate_hz)
        attention = whisper.attention(heard, spelling, code or whisper.detect_language(heard))
    starts_s = monotonic_starts(_contrast(attention[..., :frames])) / _FRAMES_PER_S
    return list(_timed(words, starts_s, loud, len(samples) / rate_hz))


def spell(text: str, tokens: Tokens) -> tuple[list[int], list[_Word]]:
    """The tokens of the text as Whisper writes it, with single spaces, and the words that they make up."""
    spelling: list[int] = []
    words: list[_Word] = []
    for run in re.finditer(r"\S+", text):
        lead = "" if _UNSPACED.match(run[0]) else " "
        ids = tokens.encode(lead + run[0])
        spelling += ids
        _add_words(words, run, list(_pieces(ids, tokens, len(lead))))
    return spelling, words


def _pieces(ids: list[int], tokens: Tokens, lead_chars: int) -> Iterator[tuple[str, int]]:
    """The shortest whole-character strings that the tokens spell, each with its number of tokens; the leading space is dropped."""
    spelled, count = b"", 0
    for token in ids:
        spelled, count = spelled + tokens.spelled(token), count + 1
        try:
            piece = spelled.decode()
        except UnicodeDecodeError:
            continue
        yield piece[lead_chars:], count
        spelled, count, lead_chars = b"", 0, 0


def _add_words(words: list[_Word], run: re.Match[str], pieces: list[tuple[str, int]]) -> None:
    """Add the words of one run of text without spaces; a run of punctuation belongs to the word before it."""
    is_new = not words or any(char.isalnum() for char in run[0])
    start, before = run.start(), ""
    for piece, count in pieces:
        end = start + len(piece)
        if is_new or _breaks(before, piece):
            words.append(_Word(start, end, count))
        else:
            words[-1].end, words[-1].tokens = end, words[-1].tokens + count
        is_new, start, before = False, end, piece or before


def _breaks(before: str, piece: str) -> bool:
    """Whether a word ends between two pieces that no space parts."""
    if not before or not piece or not (_UNSPACED.match(before[-1]) or _UNSPACED.match(piece)):
        return False
    opening = {"Ps", "Pi"}
    kind = unicodedata.category(piece[0])
    return unicodedata.category(before[-1]) not in opening and (kind in opening or kind[0] in "LN")


def _contrast(attention: torch.Tensor) -> npt.NDArray[np.float64]:
    """(heads, tokens, frames) to (tokens, frames): high where a token is looked for more than others are."""
    weights = attention / attention.sum(dim=-1, keepdim=True)  # the frames after the recording's end are left out
    deviation, mean = weights.std(dim=-2, keepdim=True, unbiased=False), weights.mean(dim=-2, keepdim=True)
    scores = (weights - mean) / deviation.clamp(min=1e-9)
    half = _MEDIAN_FRAMES // 2
    if scores.shape[-1] > half:
        padded: Any = _reflected(scores, half)
        scores = padded.unfold(-1, _MEDIAN_FRAMES, 1).median(dim=-1).values
    mixed: npt.NDArray[np.float64] = scores.mean(dim=0).double().cpu().numpy()
    return mixed


def _reflected(scores: torch.Tensor, count: int) -> torch.Tensor:
    import torch  # noqa: PLC0415 - loaded already by the model whose attention this is

    return torch.nn.functional.pad(scores, (count, count), mode="reflect")


def monotonic_starts(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The first frame of every token on the path of the highest sum: from the first token to the last, one or more frames each.

    Args:
        scores: (tokens, frames) with at least as many frames as tokens; time and memory are their product (448 x 1500 at most).
    """
    tokens, frames = scores.shape
    best = np.full(tokens, -np.inf)
    best[0] = scores[0, 0]
    came = np.zeros((frames, tokens), dtype=bool)  # whether the path came from the token before
    for frame in range(1, frames):
        before = np.concatenate([[-np.inf], best[:-1]])
        came[frame] = before > best
        best = np.where(came[frame], before, best) + scores[:, frame]
    starts = np.zeros(tokens, dtype=np.int64)
    token = tokens - 1
    for frame in range(frames - 1, 0, -1):
        if came[frame, token]:
            starts[token] = frame
            token -= 1
    return starts


def _timed(words: list[_Word], starts_s: npt.NDArray[np.float64], loud: list[int], seconds: float) -> Iterator[AlignedWord]:
    """A word lasts from its first token to the next word's, less what is not its own at the edges."""
    levels = np.asarray(loud)
    token = 0
    for word in words:
        start_s, end_s = float(starts_s[token]), min(float(starts_s[token + word.tokens]), seconds)
        heard = levels[(levels >= round(start_s * WINDOWS_PER_S)) & (levels < round(end_s * WINDOWS_PER_S))]
        if len(heard):
            first, last = _own(heard)
            start_s, end_s = max(start_s, first / WINDOWS_PER_S), min(end_s, (last + 1) / WINDOWS_PER_S)
        yield AlignedWord(word.start, word.end, round(start_s, 3), round(end_s, 3))
        token += word.tokens


def _own(heard: npt.NDArray[np.int64]) -> tuple[int, int]:
    """The first and last loud window of a word: attention gives the silence between words to either, and a bit of the neighbour with it."""
    parts = np.split(heard, np.flatnonzero(np.diff(heard) > _PAUSE_WINDOWS) + 1)
    while len(parts) > 1 and parts[-1][-1] - parts[-1][0] < _SPILL_WINDOWS:
        parts.pop()
    while len(parts) > 1 and parts[0][-1] - parts[0][0] < _SPILL_WINDOWS:
        parts.pop(0)
    return int(parts[0][0]), int(parts[-1][-1])
