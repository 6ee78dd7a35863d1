"""The number of workers follows affinity and the tightest quota above us."""

from pathlib import Path

import pytest

from modelux.supervisor.cpus import default_workers_count, quota_cpus


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("cpus", "quota", "workers"),
    [
        (1, "max 100000", 1),
        (64, "max 100000", 4),
        (3, "max 100000", 3),
        (64, "150000 100000", 2),
        (64, "50000 100000", 1),
        (64, "200000 100000", 2),
        (1, "800000 100000", 1),
        (2, "garbage", 2),
        (2, "", 2),
        (2, "100000 0", 2),
    ],
)
def test_workers_are_the_cpus_that_affinity_and_quota_allow(
    tmp_path: Path, cpus: int, quota: str, workers: int
) -> None:
    write(tmp_path / "self", "0::/\n")
    write(tmp_path / "root" / "cpu.max", quota)
    assert default_workers_count(tmp_path / "root", tmp_path / "self", cpus) == workers


def test_the_tightest_quota_on_the_way_up_decides(tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/a/b\n")
    write(tmp_path / "root" / "cpu.max", "800000 100000")
    write(tmp_path / "root" / "a" / "cpu.max", "200000 100000")
    write(tmp_path / "root" / "a" / "b" / "cpu.max", "max 100000")
    assert quota_cpus(tmp_path / "root", tmp_path / "self") == 2.0


def test_the_quota_of_version_1_counts_and_minus_one_means_none(tmp_path: Path) -> None:
    write(tmp_path / "self", "4:memory:/x\n3:cpu,cpuacct:/x\n")
    group = tmp_path / "root" / "cpu,cpuacct" / "x"
    write(group / "cpu.cfs_quota_us", "300000\n")
    write(group / "cpu.cfs_period_us", "100000\n")
    assert quota_cpus(tmp_path / "root", tmp_path / "self") == 3.0
    write(group / "cpu.cfs_quota_us", "-1\n")
    assert quota_cpus(tmp_path / "root", tmp_path / "self") is None


def test_without_cgroups_affinity_alone_decides(tmp_path: Path) -> None:
    assert default_workers_count(tmp_path / "none", tmp_path / "none", 2) == 2
    assert default_workers_count() >= 1
