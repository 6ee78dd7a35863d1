"""Compare the newest results with `bench/ceilings.toml`: `python -m bench.check [FILE]`.

By hand, or in CI on a machine of its own; never a unit test, as a busy machine is not a bug.
Exit status 1 when a ceiling is exceeded, 2 when there is nothing to compare.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench import figures, results


def main(words: Sequence[str]) -> int:
    """Check one results file, by default the newest."""
    path = Path(words[0]) if words else results.latest(results.RESULTS.glob("*.jsonl"))
    if path is None:
        print("No results: run `make bench` first.")
        return 2
    _, lines = results.read_rows(path)
    rows = figures.Rows(lines)
    stated = figures.load_figures()
    missing = [one.title for one in stated if one.ceiling and not figures.measured(one, rows)]
    messages = figures.exceeded(stated, rows)
    for title in missing:
        print(f"not measured: {title}")
    for message in messages:
        print(f"EXCEEDED: {message}")
    print(f"{path.name}: {len(messages)} exceeded, {len(missing)} not measured")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
