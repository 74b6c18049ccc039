"""Waves of chunks put together to one."""

from __future__ import annotations

import numpy as np

from f5_worker.audio import Samples


class Joined:
    """Waves one after the other with an equal-power cross-fade, and silences.

    Attributes:
        bounds: (start, end) of every wave in samples of the whole; neighbours touch in the middle of their cross-fade.
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

    def samples(self) -> Samples:
        """The whole."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.float32)
