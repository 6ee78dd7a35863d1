"""A gate as a worker has it, without sockets: requests in, plans and refusals out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from modelux._native import Cells, Gate, Local, Need, Plan, Refused
from modelux.config.compile import compile_snapshot
from modelux.config.file import load_config
from modelux.config.versions import ControlDb
from modelux.limits import MIB
from modelux.pricing.catalogue import catalogue_bytes, models_bytes

KEY: Final = "mlx_sk_" + "k" * 43
PROVIDER_KEY: Final = "sk-provider-0123456789"

CONFIG: Final = """\
[server]
workers = 1
data_dir = "{folder}/data"
state_dir = "{folder}/state"

[providers.one]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
api_key = "env:PROVIDER_KEY"
models = ["small", "large"]

[projects.default]
keys = [{{ key = "env:KEY", rpm = {rpm} }}]

[routes.both]
strategy = "fallback"
attempts = [{{ model = "one/small", timeout_ms = 1500 }}, {{ model = "one/large" }}]
retry_on = ["429", "5xx", "timeout", "connect", "reset"]
"""

Begun: TypeAlias = Plan | Refused | Local | Need


@dataclass(frozen=True, slots=True)
class Bed:
    """A gate, and requests for it."""

    gate: Gate

    def ask(
        self,
        line: str = "POST /v1/chat/completions HTTP/1.1",
        body: str = '{"model":"one/small","messages":[]}',
        *fields: str,
    ) -> Begun:
        """Let the gate read one request."""
        lines = [line, "host: x", f"authorization: Bearer {KEY}", *fields]
        if line.startswith("POST"):
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines)
        return self.gate.begin(f"{head}\r\n\r\n{body}".encode(), None, "127.0.0.1")

    def plan(self, model: str = "one/small", *fields: str) -> Plan:
        """Make a plan whose first attempt has been sent."""
        body = f'{{"model":"{model}","messages":[]}}'
        plan = self.ask("POST /v1/chat/completions HTTP/1.1", body, *fields)
        assert isinstance(plan, Plan), plan
        plan.send()
        return plan


@pytest.fixture
def make_bed(tmp_path: Path) -> Callable[[int], Bed]:
    """Build a bed whose key may ask so often a minute."""

    def make(rpm: int) -> Bed:
        file = tmp_path / "modelux.toml"
        file.write_text(CONFIG.format(folder=tmp_path, rpm=rpm))
        config = load_config(file, {"KEY": KEY, "PROVIDER_KEY": PROVIDER_KEY})
        for name in ("data", "spill"):
            (tmp_path / name).mkdir()
        control = ControlDb(tmp_path / "data")
        control.apply_config(config)
        Cells.create(tmp_path / "cells", 1).set("mode", 1)
        gate = Gate(
            compile_snapshot(config, control),
            {"env:PROVIDER_KEY": PROVIDER_KEY},
            catalogue_bytes(),
            models_bytes(),
            cells_path=tmp_path / "cells",
            ring_path=tmp_path / "ring.0.1",
            ring_bytes=1 * MIB,
            spill_dir=tmp_path / "spill",
            spill_bytes_max=1 * MIB,
            boot_id="",
            slot=0,
            generation=1,
            seed=(1, 2),
        )
        control.close()
        return Bed(gate)

    return make


@pytest.fixture
def bed(make_bed: Callable[[int], Bed]) -> Bed:
    """A gate with one key, one provider and a route over two targets."""
    return make_bed(1000)
