"""Waves of chunks put together to one, which can be taken while it grows."""

from __future__ import annotations

import numpy as np

from f5_worker.audio import Samples
from f5_worker.levels import WINDOWS_PER_S

_PEAK = 0.891  # -1 dBFS
_MOST_GAIN = 4.0  # 12 dB: what is further from the rest is not speech


class Joined:
    """Waves one after the other with an equal-power cross-fade, and silences.

    What is taken is final. Besides what was not taken yet only the end of the last wave is kept, as long as a cross-fade.

    Attributes:
        bounds: (start, end) of every wave in samples of the whole; neighbours touch in the middle of their cross-fade. The last end is
            final after `close`.
    """

    def __init__(self, fade: int) -> None:
        self.bounds: list[tuple[int, int]] = []
        self._fade = fade
        self._parts: list[Samples] = []
        self._length = 0
        self._after_pause = True

    def append(self, wave: Samples) -> None:
        """Lay the start of the wave over the end of the wave before it; after a pause or at the start it stands alone."""
        fade = 0 if self._after_pause else min(self._fade, len(self._parts[-1]), len(wave))
        start = self._length
        if fade:
            angle = np.linspace(0.0, np.pi / 2, fade, dtype=np.float32)
            before, wave = self._parts[-1], wave.copy()
            wave[:fade] = before[-fade:] * np.cos(angle) + wave[:fade] * np.sin(angle)
            self._parts[-1] = before[:-fade]
            start = self._length - fade + fade // 2
            self.bounds[-1] = (self.bounds[-1][0], start)
        self._parts.append(wave)
        self._length += len(wave) - fade
        self.bounds.append((start, self._length))
        self._after_pause = False

    def pause(self, samples: int) -> None:
        """Silence between two waves."""
        if samples > 0:
            self._parts.append(np.zeros(samples, dtype=np.float32))
            self._length += samples
            self._after_pause = True

    def take(self) -> Samples:
        """All that cannot change any more and was not taken before."""
        if self._after_pause:
            return self.close()
        last = self._parts.pop()
        final = max(0, len(last) - self._fade)
        taken = np.concatenate([*self._parts, last[:final]])
        self._parts = [last[final:].copy()]  # a view would keep the whole wave
        return taken

    def close(self) -> Samples:
        """The rest."""
        taken = np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.float32)
        self._parts, self._after_pause = [], True
        return taken


def speech_rms(wave: Samples, rate_hz: int) -> float:
    """Root of the mean power of what is not pause: of the 10 ms windows that are at most 10 dB below the mean."""
    window = rate_hz // WINDOWS_PER_S
    powers = np.square(wave[: len(wave) // window * window]).reshape(-1, window).mean(axis=1)
    return float(np.sqrt(powers[powers >= powers.mean() / 10].mean())) if len(powers) else 0.0


def matched(wave: Samples, rate_hz: int, rms: float) -> Samples:
    """The wave with that speech_rms, as far as it takes neither more than 12 dB nor clipping; 0: the wave itself."""
    own = speech_rms(wave, rate_hz)
    if not rms or not own:
        return wave
    gain = min(max(rms / own, 1 / _MOST_GAIN), _MOST_GAIN)
    if gain > 1.0:
        gain = max(1.0, min(gain, _PEAK / float(np.abs(wave).max())))
    return wave * np.float32(gain)
