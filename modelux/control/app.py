"""What the control plane serves: `/healthz` and `/metrics`.

Every answer of ours that is not text is JSON in the shape of the public errors. Requests get no
more of us than they need: small bodies, no version in a header, no guess at a content type.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from modelux._native import Cells, Live
from modelux.clock import mono_us, unix_us
from modelux.control.budgets import BudgetReader
from modelux.control.metrics import (
    CELL_SUMS,
    CELL_VALUES,
    Histogram,
    Sample,
    render,
    samples_of_budgets,
    samples_of_targets,
)
from modelux.errors import StoreError
from modelux.limits import KIB
from modelux.log import Log
from modelux.store.layout import METRICS_FILE
from modelux.units import US_PER_S

BODY_BYTES_MAX: Final = 64 * KIB
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the answers are made of."""

    state_dir: Path
    cells: Cells
    live: Live
    log: Log


def make_app(context: Context) -> web.Application:
    """Return the application, ready to be served."""
    budgets = BudgetReader(context.state_dir)

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_request: web.Request) -> web.Response:
        samples = [
            *samples_of_cells(context.cells),
            *samples_of_file(context.state_dir),
            *samples_of_targets(context.live.targets(mono_us()), mono_us()),
            *_budgets_read(context, budgets),
        ]
        return web.Response(
            body=render(samples).encode(), headers={"content-type": METRICS_TYPE}
        )

    app = web.Application(
        client_max_size=BODY_BYTES_MAX, middlewares=[errors_in_our_shape(context)]
    )
    app.on_response_prepare.append(_harden)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    return app


def errors_in_our_shape(context: Context) -> Middleware:
    """Return the boundary where whatever goes wrong becomes an answer, ours and whole."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return error(404, "not_found", f"nothing is at `{request.path}`")
        except web.HTTPMethodNotAllowed as refused:
            allowed = ", ".join(sorted(refused.allowed_methods))
            found = error(405, "method_not_allowed", f"only {allowed} here")
            found.headers["allow"] = allowed
            return found
        except web.HTTPRequestEntityTooLarge:
            return error(413, "body_too_large", f"at most {BODY_BYTES_MAX} bytes here")
        except Exception as bug:  # noqa: BLE001 - the boundary of a request.
            context.cells.add("bugs_control", 1)
            context.log.error(  # noqa: TRY400 - not the `logging` module.
                "bug", where="control", path=request.path, what=repr(bug)
            )
            return error(500, "internal_error", "a fault of ours; the log has it")

    return answer


def error(status: int, code: str, message: str) -> web.Response:
    """Return an error in the shape that the OpenAI paths have too."""
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    kind = "internal_error" if status >= 500 else kind
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def samples_of_cells(cells: Cells) -> list[Sample]:
    """Return what workers and supervisor have counted since `serve` started."""
    found = [Sample(name, labels, cells.get(cell)) for name, labels, cell in CELL_VALUES]
    found += [
        Sample(name, labels, sum(cells.get(cell, slot) for slot in range(cells.workers)))
        for name, labels, cell in CELL_SUMS
    ]
    return found


def samples_of_file(state_dir: Path) -> list[Sample]:
    """Return the trace writer's sums; none while it has not written any.

    The file is `{"samples": [[NAME, LABELS, VALUE], ...]}`; the value of a histogram is
    `{"bounds": [...], "counts": [...], "sum": S}`, with one more count than bounds.
    """
    try:
        found = json.loads((state_dir / METRICS_FILE).read_bytes())
    except FileNotFoundError:
        return []
    return [Sample(name, labels, _value(value)) for name, labels, value in found["samples"]]


def _budgets_read(context: Context, budgets: BudgetReader) -> list[Sample]:
    """Return the money of all budgets; nothing of it, rather than nothing at all, if unread."""
    try:
        return samples_of_budgets(budgets.standings(unix_us() // US_PER_S))
    except StoreError as failure:
        context.log.error("budgets_unread", why=str(failure))  # noqa: TRY400 - not `logging`.
        return []


def _value(value: float | dict[str, list[float] | float]) -> float | Histogram:
    if not isinstance(value, dict):
        return value
    bounds, counts, total = value["bounds"], value["counts"], value["sum"]
    assert isinstance(bounds, list), value
    assert isinstance(counts, list), value
    assert isinstance(total, int | float), value
    return Histogram(tuple(bounds), tuple(int(count) for count in counts), float(total))


async def _harden(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.popall("Server", None)
    answer.headers["x-content-type-options"] = "nosniff"
    answer.headers["cache-control"] = "no-store"
