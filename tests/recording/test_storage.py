"""Writing files: links, modes, errors and names are the same for everything that is saved."""

import errno
import gzip
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from epolllab import Recording
from epolllab.analysis import Result
from epolllab.plots.export import export
from epolllab.recording import storage
from tests.samples import served


def save_recording(path: Path) -> None:
    served().save(path)


def save_result(path: Path) -> None:
    Result("made", pd.DataFrame({"round": [0]}), {}).save(path)


def save_trace(path: Path) -> None:
    served().to_trace(path)


def save_chart(path: Path) -> None:
    export(Figure(), path.stem, "png", folder=path.parent, overwrite=True)


WRITERS = [save_recording, save_result, save_trace, save_chart]
SUFFIXES = {save_chart: ".png"}
Writer = Callable[[Path], None]


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Writer:
    found: Writer = request.param
    return found


def file_of(writer: Writer, folder: Path) -> Path:
    """The file to write: a chart's name has the suffix of its format."""
    return folder / f"run{SUFFIXES.get(writer, '.parquet')}"


@pytest.fixture
def no_umask() -> Iterator[None]:
    """A umask under which new files have the mode that open() was given."""
    before = os.umask(0o022)
    yield
    os.umask(before)


# ---- what is replaced -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["absolute", "relative", "chain", "folder"])
def test_a_link_to_a_file_stays_a_link(writer: Writer, how: str, tmp_path: Path) -> None:
    """The file that it leads to is replaced, where it is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    real = file_of(writer, elsewhere).with_stem("real")
    real.write_text("old")
    path = file_of(writer, tmp_path)
    if how == "folder":
        path = file_of(writer, tmp_path / "linked").with_stem("real")
        path.parent.symlink_to(elsewhere)
    elif how == "chain":
        (tmp_path / "middle").symlink_to(real)
        path.symlink_to("middle")
    else:
        path.symlink_to(real if how == "absolute" else Path("elsewhere", real.name))
    writer(path)
    assert how == "folder" or path.is_symlink()
    assert path.resolve() == real
    assert real.stat().st_size > 100
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".epolllab")]


def _make(kind: str, path: Path) -> None:
    """Create something that is not a regular file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "link to a file that does not exist":
        path.symlink_to("nothing")


KINDS = ["folder", "FIFO", "socket", "device", "link to a file that does not exist"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_regular_file_is_replaced(writer: Writer, kind: str, tmp_path: Path) -> None:
    """What is there stays as it is, and nothing is left beside it."""
    path = file_of(writer, tmp_path)
    _make(kind, path)
    before = os.lstat(path)
    with pytest.raises(ValueError, match=rf"^path\b.*{path.name}.* {kind}"):
        writer(path)
    after = os.lstat(path)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_node_is_not_replaced(writer: Writer, tmp_path: Path) -> None:
    path = file_of(writer, tmp_path)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(ValueError, match=r"^path\b.* device"):
        writer(path)
    assert stat.S_ISCHR(os.lstat(path).st_mode)


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("load", [Recording.load, Result.load])
def test_only_a_regular_file_is_loaded(
    load: Callable[[Path], Any], kind: str, tmp_path: Path
) -> None:
    """A folder would join its files, and a FIFO would block."""
    path = tmp_path / "run.parquet"
    _make(kind, path)
    with pytest.raises(ValueError, match=rf"^path\b.*run\.parquet.* {kind}"):
        load(path)


@pytest.mark.parametrize("load", [Recording.load, Result.load])
def test_a_missing_file_is_named(load: Callable[[Path], Any], tmp_path: Path) -> None:
    """Also one that a link leads to, and one whose folder is a file."""
    (tmp_path / "link").symlink_to("nothing")
    for name in ("absent", "link"):
        with pytest.raises(FileNotFoundError, match=name):
            load(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="below"):
        load(tmp_path / "file" / "below")


# ---- modes ------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o400, 0o751])
def test_a_replaced_file_keeps_its_mode(writer: Writer, mode: int, tmp_path: Path) -> None:
    path = file_of(writer, tmp_path)
    path.touch()
    path.chmod(mode)
    writer(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_leaves(
    writer: Writer, umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask is never set, not even for a moment: it is the whole process's."""
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", None)
            writer(file_of(writer, tmp_path))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.usefixtures("no_umask")
def test_the_new_content_of_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    """The temporary file is private until it has the mode of the file that it replaces."""
    path = tmp_path / "run"
    path.touch(0o640)
    with storage.write_atomically([path]) as (temporary,):
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.touch(0o640)
    os.chown(path, 1234, 2345)
    save_recording(path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_that_cannot_be_kept_loses_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were meant for another group."""
    path = tmp_path / "run"
    path.touch()
    path.chmod(0o664)
    os.chown(path, -1, 2345)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    save_recording(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


# ---- failures ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_names_the_file_and_leaves_nothing(
    writer: Writer, code: int, existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the error comes of writing, which has no file name, or of the last step."""
    path = file_of(writer, tmp_path)
    if existing:
        path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for owner, name in ((pq, "write_table"), (Path, "write_bytes"), (Figure, "savefig"),
                        (os, "replace")):  # fmt: skip
        monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match=f"nothing was written.*{path.parent}") as caught:
        writer(path)
    assert caught.value.errno == code
    assert path.name in str(caught.value)
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_text() == "old"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_takes_no_file_is_an_error_that_names_the_file(
    writer: Writer, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of the error is that of its number."""
    opened = os.open

    def fail(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_EXCL and str(path).startswith(str(tmp_path)):
            raise OSError(code, os.strerror(code), path)
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", fail)
    path = file_of(writer, tmp_path)
    with pytest.raises(OSError, match=r"nothing was written") as caught:
        writer(path)
    assert type(caught.value) is type(OSError(code, ""))
    assert path.name in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("save", [save_recording, save_trace])
def test_a_write_that_the_kernel_refuses_names_the_file(save: Writer, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match="nothing was written") as caught:
            save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    """The temporary file's name does not depend on it."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    save_recording(tmp_path / ("x" * longest))
    with pytest.raises(OSError, match="x" * longest) as caught:
        save_recording(tmp_path / ("x" * (longest + 1)))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert len(list(tmp_path.iterdir())) == 1


# ---- names ------------------------------------------------------------------------------


class OwnPath:
    """An os.PathLike that is no pathlib path."""

    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@pytest.mark.parametrize(
    "as_path", [str, Path, os.fsencode, OwnPath, lambda path: OwnPath(os.fsencode(path))]
)
def test_every_kind_of_path_names_a_file(as_path: Any, tmp_path: Path) -> None:
    """A name in another encoding, too."""
    for name in ("run", "ä b", os.fsdecode(b"\xff")):
        path = tmp_path / name
        assert served().save(as_path(str(path))) == path
        assert Recording.load(as_path(str(path))).rows == served().rows
        assert served().to_trace(as_path(str(path))) == path


URLS = ["s3://bucket/run", "http://127.0.0.1:9/run", "file:///etc/passwd", "memory://run", "S3://b"]


@pytest.mark.parametrize(
    ("error", "path"),
    [
        *((TypeError, value) for value in (None, 5, 0, True, 1.5, ["run"], object())),
        *((ValueError, value) for value in ("", b"", "a\0b", *URLS, b"s3://bucket/run")),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        Recording.load, Result.load, served().save, served().to_trace,
        Result("made", pd.DataFrame({"a": [1]}), {}).save,
    ],
)  # fmt: skip
def test_what_names_no_local_file_is_refused(
    use: Callable[[Any], Any], error: type[Exception], path: Any
) -> None:
    """A number would be a descriptor, and a URL would start network access."""
    with pytest.raises(error, match=r"^path\b"):
        use(path)


def test_a_folder_of_charts_is_a_local_one() -> None:
    with pytest.raises(ValueError, match=r"^folder\b.*s3"):
        export(Figure(), "it", folder="s3://bucket")


# ---- traces -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_gzip"),
    [("a.json", False), ("a.json.gz", True), ("a.GZ", True), ("a", False), ("a.trace", False)],
)
def test_a_trace_is_plain_json_unless_its_name_ends_in_gz(
    name: str, is_gzip: bool, tmp_path: Path
) -> None:
    data = served().to_trace(tmp_path / name).read_bytes()
    assert data.startswith(b"\x1f\x8b") == is_gzip
    events = json.loads(gzip.decompress(data) if is_gzip else data)["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) > 5
