"""Works on one live state until it is killed: `python -m tests.model.live_worker PATH SLOT`."""

import sys
from itertools import count

from modelux._native import Live

US_A_STEP = 1_000


def main(path: str, slot: int) -> None:
    """Call the same targets again and again; say so once the first call is through."""
    live = Live.open(path)
    for step in count():
        now_us = 1_000_000_000 + step * US_A_STEP
        model = f"m{step % 3}"
        live.began("p", model, slot, now_us)
        live.latency("p", model, 100, 10_000 + step % 7, 20_000, now_us)
        live.report("p", model, "failed" if step % 11 == 0 else "ok", now_us, now_us)
        live.take_probe("p", model, now_us)
        live.cool("p", model, "main", now_us + US_A_STEP, now_us)
        live.touch("mark", step)
        # More names than there are entries, so that takeovers are among what is cut short.
        live.began("p", f"name {slot} {step}", slot, now_us)
        live.ended("p", f"name {slot} {step}", slot)
        live.ended("p", model, slot)
        if step == 0:
            sys.stdout.write("working\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
