"""Control groups, read from trees of files as the kernel shows them."""

from pathlib import Path

import pytest

from epolllab import kernel
from epolllab.kernel import cgroups

HOST = "24 1 0:22 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
FIRST = "32 31 0:29 {root} {mount}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"


def tree(folder: Path, group: str, mounts: str, files: dict[str, str], root: str = "/") -> Path:
    """Make a /proc with a process in `group`, and the files of the groups; return the /proc."""
    mount = folder / "sys fs"
    for name, text in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "self").mkdir()
    (folder / "self/cgroup").write_text(group + "\n")
    at = str(mount).replace(" ", "\\040")
    lines = ["22 1 0:21 / /proc rw - proc proc rw", *mounts.format(mount=at, root=root).split("\n")]
    (folder / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines if line))
    return folder


SECOND_FILES = {
    "cpu.stat": "usage_usec 5",  # the root has neither a quota nor throttling
    "system.slice/cpu.max": "max 100000",
    "system.slice/cpu.stat": "usage_usec 5\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0",
    "system.slice/docker-1/cpu.max": "150000 100000",
    "system.slice/docker-1/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_usec 300",
    "system.slice/docker-1/inner/cpu.max": "20000 100000",
    "system.slice/docker-1/inner/cpu.stat": "nr_periods 9\nnr_throttled 5\nthrottled_usec 4000",
    "system.slice/other/cpu.max": "1000 100000",
}


def test_version_2_is_read_at_every_level(tmp_path: Path) -> None:
    """A group's quota counts for the groups in it, and its neighbours' do not."""
    proc = tree(tmp_path, "0::/system.slice/docker-1/inner", HOST, SECOND_FILES)
    assert kernel.cpu_quotas(proc) == {
        "/system.slice/docker-1/inner": 0.2,
        "/system.slice/docker-1": 1.5,
    }
    assert kernel.throttling(proc) == (7, 4300)


def test_a_quota_above_the_process_is_found(tmp_path: Path) -> None:
    proc = tree(
        tmp_path, "0::/a/b", HOST, {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}
    )
    assert kernel.cpu_quotas(proc) == {"/a": 0.5}


FIRST_FILES = {
    "cpu/cpu.cfs_quota_us": "-1",
    "cpu/cpu.cfs_period_us": "100000",
    "cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0",
    "cpu/docker/1/cpu.cfs_quota_us": "25000",
    "cpu/docker/1/cpu.cfs_period_us": "50000",
    "cpu/docker/1/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 7000999",
}


@pytest.mark.parametrize("second", [[], ["0::/"]], ids=["version 1", "both versions"])
def test_version_1_is_read(second: list[str], tmp_path: Path) -> None:
    """Its times are nanoseconds and its -1 is no quota; its controllers share a mount."""
    group = "\n".join(["5:memory:/elsewhere", "4:cpuacct,cpu:/docker/1", *second])
    mounts = "\n".join([FIRST, *(HOST.replace("{mount}", "{mount}/unified") for _ in second)])
    proc = tree(tmp_path, group, mounts, FIRST_FILES)
    assert kernel.cpu_quotas(proc) == {"/docker/1": 0.5}
    assert kernel.throttling(proc) == (4, 7000)


@pytest.mark.parametrize("group", ["/docker/1", "/", "/../../somewhere"])
def test_a_container_sees_its_own_group_as_the_root(group: str, tmp_path: Path) -> None:
    """Whatever path the process has: with and without a namespace, and outside of it."""
    files = {name.replace("docker/1/", ""): text for name, text in FIRST_FILES.items()}
    proc = tree(tmp_path, f"4:cpu,cpuacct:{group}", FIRST, files, root="/docker/1")
    assert kernel.cpu_quotas(proc) == {"/": 0.5}
    assert kernel.throttling(proc) == (4, 7000)


@pytest.mark.parametrize("text", ["", "max", "0 0", "x y", "-1 100000", "100000"])
def test_a_file_without_a_quota_is_no_quota(text: str, tmp_path: Path) -> None:
    proc = tree(tmp_path, "0::/a", HOST, {"a/cpu.max": text})
    assert kernel.cpu_quotas(proc) == {}
    assert kernel.throttling(proc) == (0, 0)


def test_groups_that_cannot_be_seen_are_an_error(tmp_path: Path) -> None:
    """Without /proc, and in a container that has no group files mounted."""
    with pytest.raises(OSError, match="cgroup"):
        kernel.cpu_quotas(tmp_path)
    proc = tree(tmp_path, "0::/a", "", {})
    for ask in (kernel.cpu_quotas, kernel.throttling):
        with pytest.raises(OSError, match="cpu"):
            ask(proc)


def test_memory_is_what_the_machine_has_and_the_groups_allow(tmp_path: Path) -> None:
    """Without groups or limits it is the machine's."""
    assert cgroups.memory_available(tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert cgroups.memory_available(tmp_path) == 8000 * 1024
    files = {"a/memory.max": "5000", "a/b/memory.max": "max", "other/memory.max": "1"}
    assert cgroups.memory_available(tree(tmp_path, "0::/a/b", HOST, files)) == 5000


def test_this_machine_can_be_read() -> None:
    """Throttling only grows."""
    try:
        before = kernel.throttling()
    except OSError as error:
        pytest.skip(str(error))
    assert all(quota > 0 for quota in kernel.cpu_quotas().values())
    after = kernel.throttling()
    assert after.periods >= before.periods
    assert after.microseconds >= before.microseconds
    assert (kernel.memory_available() or 1 << 20) >= 1 << 20
