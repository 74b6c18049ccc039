"""Circuit breaker on disk: a source that failed is paid for once per worker disk, not at every boot."""

from __future__ import annotations

import hashlib
import time

from f5_worker.cache import HubCache
from f5_worker.errors import StoreError
from f5_worker.settings import S3Settings

OPEN_S = 600.0  # long enough for a restart loop, short enough that a repaired bucket is used again the same day


class Breaker:
    """Remembers, for one endpoint, bucket and key id, or for one URL, why it is left alone and until when."""

    def __init__(self, cache: HubCache, source: S3Settings | str, *, open_s: float = OPEN_S) -> None:
        self._cache, self._open_s = cache, open_s
        identity = source if isinstance(source, str) else "\n".join((source.endpoint_url or "", source.bucket, source.access_key_id))
        self._name = f"breaker-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"

    def open_cause(self) -> str | None:
        """Why the source is left alone at present, None when it may be used."""
        state = self._cache.read_state(self._name)
        if not isinstance(state, dict) or not isinstance(state.get("cause"), str) or not isinstance(state.get("until_unix_s"), int | float):
            return None
        # A clock that was set back must not keep it open for long.
        return state["cause"] if 0 < state["until_unix_s"] - time.time() <= self._open_s else None

    def trip(self, error: StoreError) -> None:
        """Leave the source alone for a while. Raises CacheError when that cannot be written."""
        self._cache.write_state(self._name, {"cause": str(error), "until_unix_s": time.time() + self._open_s})
