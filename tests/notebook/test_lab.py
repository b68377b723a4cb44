"""The reader's copy: nothing that was edited or run is lost, whatever an upgrade brings."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from epolllab.notebook import lab, paths
from epolllab.notebook.lab import update_copy


def notebook(source: str, output: str = "") -> str:
    """A notebook of one cell, which was run if it has an output."""
    cell = {"cell_type": "code", "source": [source], "outputs": [output] if output else []}
    return json.dumps({"cells": [cell]})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed notebooks: two, a page and a picture."""
    source = tmp_path / "installed" / "notebooks"
    (source / "pages").mkdir(parents=True)
    (source / "00-index.ipynb").write_text(notebook("index"))
    (source / "01-a.ipynb").write_text(notebook("a", "stored"))
    (source / "pages" / "page.ipynb").write_text(notebook("page"))
    (source / "a.png").write_bytes(b"picture")
    (source / ".ipynb_checkpoints").mkdir()
    (source / ".ipynb_checkpoints" / "01-a-checkpoint.ipynb").write_text("hidden")
    monkeypatch.setattr(paths, "notebooks", lambda: source)
    return source


@pytest.fixture
def copy(installed: Path, tmp_path: Path) -> Path:
    """The notebooks of a copy as it was first made."""
    return update_copy(tmp_path / "lab").notebooks


def files(folder: Path) -> dict[str, str]:
    """Every visible file of a folder with its text."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "/." not in f"/{path.relative_to(folder)}"
    }


def upgrade(installed: Path, name: str = "01-a.ipynb", text: str = "") -> None:
    """Install a new version of a notebook."""
    (installed / name).write_text(text or notebook("a, new", "stored"))


def test_a_first_copy_has_everything_but_hidden_files(installed: Path, copy: Path) -> None:
    assert files(copy) == {
        "00-index.ipynb": notebook("index"),
        "01-a.ipynb": notebook("a", "stored"),
        "pages/page.ipynb": notebook("page"),
        "a.png": "picture",
    }
    assert (copy.parent / "data").is_dir()  # for what the notebooks export
    assert not list(copy.rglob("*checkpoint*"))


def test_the_same_version_changes_nothing(installed: Path, copy: Path) -> None:
    """Edited and run notebooks stay; a deleted one is installed again."""
    (copy / "01-a.ipynb").write_text(notebook("mine"))
    (copy / "00-index.ipynb").write_text(notebook("index", "ran"))
    (copy / "pages" / "page.ipynb").unlink()
    before = files(copy)
    done = update_copy(copy.parent)
    assert files(copy) == {**before, "pages/page.ipynb": notebook("page")}
    assert (done.beside, done.set_aside, done.left) == ([], [], [])


def test_an_upgrade_replaces_what_is_as_it_was_installed(installed: Path, copy: Path) -> None:
    upgrade(installed)
    (installed / "a.png").write_bytes(b"new picture")
    done = update_copy(copy.parent)
    assert files(copy) == files(installed)
    assert (done.beside, done.set_aside) == ([], [])


def test_new_outputs_alone_are_an_upgrade(installed: Path, copy: Path) -> None:
    """Of a notebook that was not run; a run of the same code stays."""
    upgrade(installed, text=notebook("a", "stored, new"))
    upgrade(installed, "00-index.ipynb", notebook("index", "stored, new"))
    (copy / "00-index.ipynb").write_text(notebook("index", "ran"))
    update_copy(copy.parent)
    assert (copy / "01-a.ipynb").read_text() == notebook("a", "stored, new")
    assert (copy / "00-index.ipynb").read_text() == notebook("index", "ran")


def test_a_run_is_set_aside_before_a_new_version(installed: Path, copy: Path) -> None:
    """Twice, so that the first run is not lost by the second."""
    for number, kept in enumerate(("previous/01-a.ipynb", "previous/01-a-2.ipynb")):
        ran = notebook("a" + ", new" * number, "ran")
        (copy / "01-a.ipynb").write_text(ran)
        upgrade(installed, text=notebook("a" + ", new" * (number + 1), "stored"))
        done = update_copy(copy.parent)
        assert (done.set_aside, done.beside) == ([kept], [])
        assert files(copy)[kept] == ran
        assert files(copy)["01-a.ipynb"] == (installed / "01-a.ipynb").read_text()


def test_a_new_version_is_put_beside_an_edited_notebook(installed: Path, copy: Path) -> None:
    """Once; if the reader deletes it, the next version brings another one."""
    (copy / "01-a.ipynb").write_text(notebook("mine"))
    upgrade(installed)
    done = update_copy(copy.parent)
    assert done.beside == ["01-a.new.ipynb"]
    assert files(copy)["01-a.ipynb"] == notebook("mine")
    assert files(copy)["01-a.new.ipynb"] == notebook("a, new", "stored")
    (copy / "01-a.new.ipynb").unlink()
    assert update_copy(copy.parent).beside == []
    assert "01-a.new.ipynb" not in files(copy)
    upgrade(installed, text=notebook("a, newer"))
    assert update_copy(copy.parent).beside == ["01-a.new.ipynb"]


def test_an_edited_new_version_is_kept_as_well(installed: Path, copy: Path) -> None:
    """One that was not edited makes room for the next."""
    (copy / "01-a.ipynb").write_text(notebook("mine"))
    upgrade(installed)
    update_copy(copy.parent)
    upgrade(installed, text=notebook("a, newer"))
    assert update_copy(copy.parent).beside == ["01-a.new.ipynb"]
    assert files(copy)["01-a.new.ipynb"] == notebook("a, newer")
    (copy / "01-a.new.ipynb").write_text(notebook("mine, too"))
    upgrade(installed, text=notebook("a, newest"))
    assert update_copy(copy.parent).beside == ["01-a.new-2.ipynb"]
    assert files(copy)["01-a.new.ipynb"] == notebook("mine, too")
    assert files(copy)["01-a.new-2.ipynb"] == notebook("a, newest")


def test_an_edit_that_a_new_version_has_as_well_needs_no_second_file(
    installed: Path, copy: Path
) -> None:
    (copy / "01-a.ipynb").write_text(notebook("a, new", "ran"))
    upgrade(installed)
    assert update_copy(copy.parent).beside == []
    assert files(copy)["01-a.ipynb"] == notebook("a, new", "ran")


def test_what_is_no_longer_installed_goes_unless_it_was_edited(installed: Path, copy: Path) -> None:
    """As when the notebooks are numbered anew."""
    for name in ("02-b", "03-c", "04-d"):
        (installed / f"{name}.ipynb").write_text(notebook(name))
    update_copy(copy.parent)
    (copy / "03-c.ipynb").write_text(notebook("03-c", "ran"))
    (copy / "04-d.ipynb").write_text(notebook("mine"))
    for name in ("02-b", "03-c", "04-d"):
        (installed / f"{name}.ipynb").unlink()
    done = update_copy(copy.parent)
    assert (done.set_aside, done.left) == (["previous/03-c.ipynb"], ["04-d.ipynb"])
    assert set(files(copy)) - set(files(installed)) == {"previous/03-c.ipynb", "04-d.ipynb"}
    assert update_copy(copy.parent).left == []


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"files": 1}', '{"files": {"a": 1}}'])
def test_without_its_manifest_all_that_differs_counts_as_edited(
    manifest: str, installed: Path, copy: Path
) -> None:
    """As in a folder that an older version filled."""
    (copy.parent / lab.MANIFEST).write_text(manifest)
    upgrade(installed)
    assert update_copy(copy.parent).beside == ["01-a.new.ipynb"]
    assert files(copy)["01-a.ipynb"] == notebook("a", "stored")


def test_a_notebook_that_cannot_be_parsed_is_kept(installed: Path, copy: Path) -> None:
    (copy / "01-a.ipynb").write_text("<<<<<<< merge")
    upgrade(installed)
    assert update_copy(copy.parent).beside == ["01-a.new.ipynb"]
    assert files(copy)["01-a.ipynb"] == "<<<<<<< merge"


# ---- links ------------------------------------------------------------------------------


def test_nothing_is_written_through_a_link(installed: Path, copy: Path, tmp_path: Path) -> None:
    """To a file, to nothing, or of a subfolder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.ipynb").write_text(notebook("a", "stored"))
    (copy / "01-a.ipynb").unlink()
    (copy / "01-a.ipynb").symlink_to(elsewhere / "a.ipynb")
    (copy / "00-index.ipynb").unlink()
    (copy / "00-index.ipynb").symlink_to(elsewhere / "nothing")
    (copy / "pages" / "page.ipynb").rename(elsewhere / "page.ipynb")
    (copy / "pages").rmdir()
    (copy / "pages").symlink_to(elsewhere)
    before = files(elsewhere)
    upgrade(installed)
    upgrade(installed, "00-index.ipynb")
    upgrade(installed, "pages/page.ipynb")
    done = update_copy(copy.parent)
    assert files(elsewhere) == before
    assert done.beside == ["00-index.new.ipynb", "01-a.new.ipynb"]
    assert (copy / "01-a.ipynb").is_symlink()


def test_a_linked_folder_is_as_good_as_another(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "lab").symlink_to(tmp_path / "disk")
    assert update_copy(tmp_path / "lab").notebooks == tmp_path.resolve() / "disk" / "notebooks"
    assert files(tmp_path / "disk" / "notebooks") == files(installed)


@pytest.mark.parametrize("kind", ["the folder itself", "a link to it", "below it"])
def test_the_installed_notebooks_are_refused(kind: str, installed: Path, tmp_path: Path) -> None:
    """Running them would change the checkout, or the package."""
    folder = {
        "the folder itself": installed.parent,
        "a link to it": tmp_path / "lab",
        "below it": installed / "x",
    }[kind]
    if kind == "a link to it":
        folder.mkdir()
        (folder / "notebooks").symlink_to(installed)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"^folder .* --folder$"):
        update_copy(folder)
    assert files(tmp_path) == before


# ---- folders that cannot be used --------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "below a file", "impossible", "dead link", "loop"])
def test_a_folder_that_cannot_be_is_an_error(kind: str, installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    if kind == "file":
        folder.touch()
    elif kind == "dead link":
        folder.symlink_to(tmp_path / "nothing")
    elif kind == "loop":
        folder.symlink_to(folder)
    (tmp_path / "file").touch()
    folder = {"below a file": tmp_path / "file" / "x", "impossible": Path("/proc/x")}.get(
        kind, folder
    )
    with pytest.raises(OSError, match=rf"^folder {folder} .*; choose another with --folder$"):
        update_copy(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("writes", range(5))
def test_a_full_or_protected_disk_leaves_nothing_half_done(
    writes: int, number: int, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is the first that does not fit; later the copy is completed."""
    write_bytes, written = Path.write_bytes, []

    def fail(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > writes:
            write_bytes(path, data[: len(data) // 2])
            raise OSError(number, os.strerror(number), str(path))
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match=rf"^folder .*{os.strerror(number)}"):
            update_copy(tmp_path / "lab")
    folder = tmp_path / "lab" / "notebooks"
    assert files(folder).items() <= files(installed).items()
    assert len(files(folder)) == min(writes, 4)
    assert not list(folder.rglob(".epolllab-*"))
    done = update_copy(tmp_path / "lab")
    assert files(folder) == files(installed)
    assert done.beside == []


# ---- several at once --------------------------------------------------------------------


def test_two_labs_at_once_make_one_copy(installed: Path, copy: Path) -> None:
    """An edited notebook gets its new version once, and the others are complete."""
    (copy / "01-a.ipynb").write_text(notebook("mine"))
    upgrade(installed)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(update_copy, [copy.parent] * 8))
    assert [name for each in done for name in each.beside] == ["01-a.new.ipynb"]
    assert files(copy) == {
        **files(installed),
        "01-a.ipynb": notebook("mine"),
        "01-a.new.ipynb": notebook("a, new", "stored"),
    }


# ---- where it is ------------------------------------------------------------------------


def test_the_default_folder_is_the_copy_around_or_a_new_one(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the command makes no copy within a copy."""
    monkeypatch.chdir(tmp_path)
    assert lab.default_folder() == tmp_path / "epolllab-lab"
    for inside in (copy.parent, copy / "pages"):
        monkeypatch.chdir(inside)
        assert lab.default_folder() == copy.parent


def test_the_index_is_among_the_installed_notebooks() -> None:
    assert (paths.notebooks() / lab.INDEX).is_file()
