"""Circuit breaker on disk: a bucket that failed is paid for once per worker disk, not at every boot."""

from __future__ import annotations

import hashlib
import time

from f5_worker.cache import HubCache
from f5_worker.errors import StoreError
from f5_worker.settings import S3Settings

OPEN_S = 600.0  # long enough for a restart loop, short enough that a repaired bucket is used again the same day


class Breaker:
    """Remembers, for one endpoint, bucket and key id, why the bucket is left alone and until when."""

    def __init__(self, cache: HubCache, s3: S3Settings) -> None:
        self._cache = cache
        identity = "\n".join((s3.endpoint_url or "", s3.bucket, s3.access_key_id))
        self._name = f"breaker-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"

    def open_cause(self) -> str | None:
        """Why the bucket is left alone at present, None when it may be used."""
        state = self._cache.read_state(self._name)
        if not isinstance(state, dict) or not isinstance(state.get("cause"), str) or not isinstance(state.get("until_unix_s"), int | float):
            return None
        # A clock that was set back must not keep it open for long.
        return state["cause"] if 0 < state["until_unix_s"] - time.time() <= OPEN_S else None

    def trip(self, error: StoreError) -> None:
        """Leave the bucket alone for OPEN_S. Raises CacheError when that cannot be written."""
        self._cache.write_state(self._name, {"cause": str(error), "until_unix_s": time.time() + OPEN_S})
