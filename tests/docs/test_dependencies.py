"""Each dependency has its line, and each line its dependency."""

import re
import tomllib

from tests.tidy.tree import ROOT, committed


def described() -> set[str]:
    """Return every package and crate that `docs/dependencies.md` has a row for."""
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    return set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE))


def declared() -> set[str]:
    """Return every direct dependency of the manifests, our own crates left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    words = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[<>=\[;~! ]", word)[0] for word in words}
    for text in committed().under("rust/", suffix="Cargo.toml").values():
        manifest = tomllib.loads(text)
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            names.update(manifest.get(kind, {}))
    return {name for name in names if not name.startswith("modelux-")}


def test_every_dependency_says_what_it_is_for() -> None:
    assert described() == declared()


def test_few_packages_are_needed_at_run_time() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert len(project["project"]["dependencies"]) <= 8
