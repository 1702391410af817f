"""Which kernels and how many threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flash_runtime.kernels.info import _quotas, choose_isa, cpu_info, default_threads

BOTH = ("avx512", "portable")


def test_the_fastest_supported_instruction_set_is_the_default() -> None:
    assert choose_isa(None, environment={}, supported=BOTH) == "avx512"


def test_the_environment_forces_an_instruction_set_and_the_argument_wins_over_it() -> None:
    assert choose_isa(None, environment={"FLASHPLANE_ISA": "portable"}, supported=BOTH) == "portable"
    assert choose_isa("avx512", environment={"FLASHPLANE_ISA": "portable"}, supported=BOTH) == "avx512"


def test_an_instruction_set_this_machine_lacks_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"FLASHPLANE_ISA \(avx512\) must be one this CPU supports: portable"):
        choose_isa(None, environment={"FLASHPLANE_ISA": "avx512"}, supported=("portable",))


def test_the_portable_kernels_are_always_there() -> None:
    assert cpu_info().supported[-1] == "portable"
    assert cpu_info(isa="portable", threads=3).threads == 3


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"threads \(0\) must be at least 1"):
        cpu_info(threads=0)


def test_threads_stay_within_the_affinity() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


def test_quotas_of_the_cgroup_and_its_parents_are_read(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    root = tmp_path / "cgroup"
    (root / "pod" / "container").mkdir(parents=True)
    (root / "pod" / "cpu.max").write_text("150000 100000\n")
    (root / "pod" / "container" / "cpu.max").write_text("max 100000\n")
    assert list(_quotas(root, own)) == [1.5]


def test_quotas_of_the_first_cgroup_version_are_read(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("12:memory:/pod\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/pod\n")
    pod = tmp_path / "cgroup" / "cpu,cpuacct" / "pod"
    (pod / "container").mkdir(parents=True)
    for folder, quota in ((pod, "250000"), (pod / "container", "-1")):
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert list(_quotas(tmp_path / "cgroup", own)) == [2.5]


def test_a_container_that_sees_its_own_quota_as_the_root_is_limited_by_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/docker/1234\n")
    folder = tmp_path / "cgroup" / "cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert list(_quotas(tmp_path / "cgroup", own)) == [0.5]


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert list(_quotas(tmp_path, tmp_path / "missing")) == []
