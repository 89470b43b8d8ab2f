"""Notes from rank to rank beside the collectives, for threads that must not take part in those."""

import json
import os
import time
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from torch.distributed import HashStore, TCPStore

from training import distributed

PAUSE_S = 0.02


class Notes:
    """A key-value store that all ranks of a run see; rank 0 keeps it. Used by one thread of each rank at a time."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Open the store; every rank calls this."""
        if accelerator.num_processes == 1:
            self._store: Any = HashStore()
            return
        host, main = os.environ["MASTER_ADDR"], accelerator.is_main_process
        timeout = timedelta(seconds=60)
        if main:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        port = distributed.share(accelerator, self._store.port if main else None)
        if not main:
            self._store = TCPStore(host, port, is_master=False, timeout=timeout)

    def post(self, key: str, note: Any) -> None:
        """Put up a note: JSON values."""
        self._store.set(key, json.dumps(note))

    def read(self, keys: list[str], timeout_s: float) -> list[Any]:
        """The notes under some keys, waiting for those that are not up yet.

        Raises:
            TimeoutError: a note was not put up in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._store.check(keys):
            if time.monotonic() > deadline:
                missing = [key for key in keys if not self._store.check([key])]
                raise TimeoutError(f"no word after {timeout_s:.0f} s of {', '.join(missing)}")
            time.sleep(PAUSE_S)
        return [json.loads(self._store.get(key)) for key in keys]
