"""Where things lie in `state_dir` and `data_dir`, and the version of that layout.

```
state_dir (tmpfs)                       data_dir (disk)
  stamp        boot id, layout, ...       serve.lock   held while a supervisor runs
  state.mdb    LMDB: snapshot             reload.json  how the last reload went
  ledger.mdb   LMDB: balances, holds      ledger.db    their copy on disk
  slots.G      holds of generation G      generations  what worker generations are used up
  cells        mapped counters            control.db, traces/, spill/
  live         health and latency
  ring.S.G     traces of slot S
  metrics.json from the trace writer
```
"""

from pathlib import Path
from typing import Final

LAYOUT_VERSION: Final = 2
"""Changes whenever a file in `state_dir` is laid out differently: an old one is discarded."""

STATE_MAP_FILE: Final = "state.mdb"
CELLS_FILE: Final = "cells"
LIVE_FILE: Final = "live"
"""Kept over restarts as long as boot and layout are the same, which its header says."""
METRICS_FILE: Final = "metrics.json"
STAMP_FILE: Final = "stamp"
RING_PREFIX: Final = "ring."
LEDGER_MAP_FILE: Final = "ledger.mdb"
SLOTS_PREFIX: Final = "slots."
LEDGER_COPY_FILE: Final = "ledger.db"
"""In `data_dir`: what the ledger is made anew from when its map is gone."""
SPILL_DIRECTORY: Final = "spill"
"""In `data_dir`: what the rings cannot take must survive power loss."""

SERVE_LOCK_FILE: Final = "serve.lock"
RELOAD_FILE: Final = "reload.json"
GENERATIONS_FILE: Final = "generations"

BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what tells one boot of this machine from another; empty where there is none."""
    try:
        return BOOT_ID_PATH.read_text(encoding="ascii").strip()
    except OSError:
        return ""
