"""Turn `Cargo.lock` into the committed `locks/Cargo.lock`, and back.

The committed copy holds names, versions and checksums, but no `source` lines, so the tree
names no registry. Cargo needs those lines: without one it takes a package for a local one.
Which text cargo writes there is asked of cargo itself, with a throw-away package that has one
dependency. A checksum then proves that what is fetched is what was locked, wherever it is from.

Usage: python scripts/cargo_lock.py strip|restore
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
WORKING: Final = ROOT / "Cargo.lock"
COMMITTED: Final = ROOT / "locks" / "Cargo.lock"

_PROBE_MANIFEST: Final = """\
[package]
name = "probe"
version = "0.0.0"
edition = "2021"
[dependencies]
{name} = "={version}"
[workspace]
"""


def strip(lock: str) -> str:
    """Return `lock` without its `source` lines.

    Raises:
        ValueError: A package has a source but no checksum, so its origin could not be checked.
    """
    for package in tomllib.loads(lock)["package"]:
        if ("source" in package) != ("checksum" in package):
            raise ValueError(f"`{package['name']}` comes from no registry: vendor it instead")
    return "".join(
        line for line in lock.splitlines(keepends=True) if not line.startswith("source = ")
    )


def restore(lock: str, source: str) -> str:
    """Return `lock` with the line `source = "SOURCE"` for each package with a checksum."""
    # Cargo writes the two next to each other, the source first; dependencies come after.
    return "".join(
        f'source = "{source}"\n{line}' if line.startswith("checksum = ") else line
        for line in lock.splitlines(keepends=True)
    )


def default_source(lock: str) -> str:
    """Ask cargo how it names its default registry.

    Raises:
        RuntimeError: Cargo cannot resolve a package; the message is cargo's own.
    """
    package = next(
        package
        for package in tomllib.loads(lock)["package"]
        if "checksum" in package and "dependencies" not in package
    )
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        (folder / "src").mkdir()
        (folder / "src" / "lib.rs").touch()
        (folder / "Cargo.toml").write_text(_PROBE_MANIFEST.format_map(package), "utf-8")
        manifest = ["--manifest-path", str(folder / "Cargo.toml")]
        # What lies in cargo's cache is enough, so a second clone needs no network.
        for extra in (["--offline"], []):
            done = subprocess.run(
                ["cargo", "generate-lockfile", *manifest, *extra],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                break
        else:
            raise RuntimeError(done.stderr.strip())
        probe = tomllib.loads((folder / "Cargo.lock").read_text("utf-8"))
    sources: set[str] = {p["source"] for p in probe["package"] if "source" in p}
    (source,) = sources
    return source


def main(words: list[str]) -> int:
    """Run one of the two directions; return the exit code."""
    if words == ["strip"]:
        COMMITTED.write_text(strip(WORKING.read_text("utf-8")), "utf-8")
    elif words == ["restore"]:
        lock = COMMITTED.read_text("utf-8")
        WORKING.write_text(restore(lock, default_source(lock)), "utf-8")
    else:
        sys.stderr.write("usage: cargo_lock.py strip|restore\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
