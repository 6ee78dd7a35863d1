"""`make run` shows what the first page promises: a failover, a stream, its
explanation, and what it cost a budget."""

import re
import subprocess
import sys

from tests.tidy.tree import ROOT


def test_the_demo_answers_from_the_second_provider_and_explains_it() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/run.py", "--once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shape in (
        r"\[modelux\] req_\S+ gpt-4o-mini [\d,.]+m?s \$0\.\d+ 200",
        r"attempt_1 +claude-haiku-4-5 +timeout \(2000ms\)",
        r"attempt_2 +gpt-4o-mini +200 OK +[\d,]+ tokens",
        r"decision: +fallback -> attempt_2",
        r"reason: +primary timeout, secondary healthy",
        r"cost: +input \$0\.\d+ \+ output \$0\.\d+",
        r"latency: +ttft \S+ +total \S+ +overhead \S+",
        r"project: +playwright-test",
        r"config: +@production \(v1\)",
        # What the silent provider may have billed is charged, and nothing is left held.
        r"a dollar a day +- +1\.00 +0\.08\d* +0\.00 +0\.9\d* ",
    ):
        assert re.search(shape, done.stdout), (shape, done.stdout)
