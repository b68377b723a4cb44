"""What the command stores, what it keeps, and which faults it finds."""

import base64
import copy
import io
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw, PngImagePlugin

from tests.notebooks.tools import METADATA, make_index, make_notebooks

ALT = "Two lines: both rise."


def picture(width: int = 200, **text: str) -> str:
    """A PNG with a line on white, in base64, with the given metadata."""
    image = Image.new("RGBA", (width, 100), (255, 255, 255, 255))
    ImageDraw.Draw(image).line((0, 99, width, 0), fill=(200, 30, 30, 255), width=3)
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return base64.b64encode(file.getvalue()).decode()


def figure(alt: str = ALT, width: int = 200) -> Any:
    """An output as a chart of the package makes it."""
    data = {"image/png": picture(width, Software="matplotlib"), "text/plain": alt}
    return new_output("display_data", data, metadata={"image/png": {"width": 100, "height": 50}})


def text(words: str, name: str = "stdout") -> Any:
    """Printed text."""
    return new_output("stream", name=name, text=words)


def notebook(*outputs: list[Any], tags: tuple[str, ...] = ()) -> Any:
    """A notebook as it is stored: a cell of code for each list of outputs."""
    cells = [new_markdown_cell("# A title")]
    for count, shown in enumerate(outputs, 1):
        cell = new_code_cell(f"show({count})", outputs=shown, execution_count=count)
        cells.append(cell)
        if tags:
            cell.metadata["tags"] = list(tags)
    made = make_notebooks.tidy(new_notebook(cells=cells, metadata=METADATA))
    made.metadata["epolllab"] = {"code": make_notebooks.digest(made)}
    return made


def faults(made: Any, folder: Path) -> list[str]:
    """What is wrong with a notebook once it is a file."""
    nbformat.write(made, folder / "01-a.ipynb")
    return make_notebooks.faults(folder / "01-a.ipynb")


def test_a_sound_notebook_has_no_faults(tmp_path: Path) -> None:
    assert faults(notebook([text("5 events\n")], [figure()], []), tmp_path) == []


def edit_code(made: Any) -> None:
    made.cells[1].source += "  # edited"


def swap_counts(made: Any) -> None:
    made.cells[1].execution_count = 2


def lose_output(made: Any) -> None:
    made.cells[1].source, made.cells[1].outputs = "print(1)", []
    made.metadata["epolllab"] = {"code": make_notebooks.digest(made)}


def store_times(made: Any) -> None:
    made.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


def store_widgets(made: Any) -> None:
    made.metadata["widgets"] = {}


def repeat_id(made: Any) -> None:
    made.cells[1].id = made.cells[0].id


def lose_alternative(made: Any) -> None:
    del made.cells[2].outputs[0].metadata["image/png"]["alt"]


def blur(made: Any) -> None:
    made.cells[2].outputs[0].metadata["image/png"]["width"] = 200


def grow(made: Any) -> None:
    made.cells[1].outputs = [text("x" * make_notebooks.MOST_BYTES)]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (edit_code, "the code has changed"),
        (swap_counts, "not executed in order"),
        (lose_output, "cell 1: its output is missing"),
        (store_times, "cell 1: metadata"),
        (store_widgets, "metadata"),
        (lose_alternative, "cell 2: a picture without a text alternative"),
        (blur, "cell 2: a picture of 200 pixels with 200 in the page"),
        (grow, "are allowed"),
    ],
)
def test_a_fault_of_the_notebook_is_found(spoil: Any, fault: str, tmp_path: Path) -> None:
    made = notebook([text("5 events\n")], [figure()])
    spoil(made)
    (found,) = faults(made, tmp_path)
    assert fault in found


@pytest.mark.filterwarnings("ignore:Non-unique cell id")
def test_a_repeated_id_is_found(tmp_path: Path) -> None:
    made = notebook([text("5 events\n")])
    repeat_id(made)
    path = tmp_path / "01-a.ipynb"
    path.write_text(nbformat.v4.writes(made))  # nbformat.write gives it another id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nbformat, "read", lambda *_, **__: made)
        assert make_notebooks.faults(path) == ["two cells have the same id"]


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (text("wrote /home/me/x.parquet"), "a path of a machine"),
        (text("<Axes> at 0x7f00deadbeef"), "the address of an object"),
        (text("Traceback (most recent call last):"), "a traceback"),
        (text("50%|##   | 5/10 [00:01, 5.0it/s]"), "a progress bar"),
        (text("a warning", "stderr"), "printed to stderr"),
        (new_output("error", ename="ValueError", evalue="", traceback=[]), "it failed: ValueError"),
        (new_output("display_data", {make_notebooks.WIDGET: {}}), "a widget"),
        (new_output("display_data", {"image/svg+xml": "<svg/>"}), "an SVG"),
        (new_output("display_data", {"text/html": '<img src="x">'}), "without a text alternative"),
        (new_output("display_data", {"text/html": '<img alt="" src="x">'}), "without a text"),
    ],
)
def test_a_fault_of_an_output_is_found(output: Any, fault: str, tmp_path: Path) -> None:
    made = notebook([])
    made.cells[1].outputs = [output]
    (found,) = faults(made, tmp_path)
    assert found.startswith("cell 1: ")
    assert fault in found


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("x = 1\nx", True),
        ("frame[['a']]", True),
        ("print(x)\ny = 1", True),
        ("a.b;", False),
        ("server.stop()", False),
        ("x = 1", False),
        ("if x:\n    print(x)", False),
        ("", False),
    ],
)
def test_which_cells_must_show_something(source: str, shows: bool) -> None:
    """A call may return nothing, and a condition may be false."""
    assert make_notebooks._must_show(source) is shows


def test_pictures_are_stored_small_and_without_their_maker() -> None:
    """The same colours, and the same bytes each time."""
    before = base64.b64decode(picture(Software="matplotlib 3"))
    after = make_notebooks.smaller(before)
    assert len(after) < len(before)
    assert after == make_notebooks.smaller(before)
    with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
        assert new.info.keys() & {"Software"} == set()
        assert new.convert("RGB").tobytes() == old.convert("RGB").tobytes()


def test_a_picture_gets_its_alternative_in_html() -> None:
    """From the text of the chart; both have the same bytes."""
    (output,) = notebook([figure('"a" < b')]).cells[1].outputs
    assert output.metadata["image/png"]["alt"] == '"a" < b'
    assert output.data["text/html"] == (
        f'<img src="data:image/png;base64,{output.data["image/png"]}" '
        'alt="&quot;a&quot; &lt; b" width="100" height="50">'
    )
    (other,) = notebook([figure("<Figure size 640x480 with 1 Axes>")]).cells[1].outputs
    assert "text/html" not in other.data


@pytest.mark.parametrize(
    ("shown", "kinds"),
    [
        ({"text/plain": "stepper: 3 steps"}, [["text/plain"]]),
        ({"text/plain": "VBox(children=())"}, [[make_notebooks.WIDGET, "text/plain"]]),
        ({"text/plain": " 50%|###  | 5/10 [00:01<00:01,  5.00it/s]"}, []),
        ({"text/plain": "  0%|          | 0/2 [00:00<?, ?it/s]"}, []),
    ],
)
def test_a_widget_is_stored_as_its_text(shown: dict[str, str], kinds: list[list[str]]) -> None:
    """A progress bar goes; one without words stays, and is a fault."""
    output = new_output("display_data", {make_notebooks.WIDGET: {}, **shown})
    assert [sorted(o.data) for o in notebook([output]).cells[1].outputs] == kinds


def test_ids_stay_and_copies_get_their_own() -> None:
    """A cell keeps its id wherever it moves."""
    made = notebook([], [], [])
    ids = [cell.id for cell in made.cells]
    made.cells.insert(1, copy.deepcopy(made.cells[3]))
    made.cells[2].metadata["collapsed"] = True
    again = [cell.id for cell in make_notebooks.tidy(made).cells]
    assert [again[0], again[2], again[3]] == [ids[0], ids[1], ids[2]]
    assert again[1] == ids[3]
    assert len(set(again)) == 5
    assert made.cells[2].metadata == {}


def kept(before: Any, after: Any) -> Any:
    """The outputs after a new execution of a notebook with stored outputs."""
    make_notebooks.keep_live(before, after)
    return [cell.outputs for cell in after.cells[1:]]


def test_live_outputs_stay_while_only_numbers_change() -> None:
    """Table, time and rate differ; words and columns do not."""
    old = [text("  n   time\n  1   17 µs\n"), text("port 40123")]
    new = [text("  n     time\n 12   1.2 ms\n"), text("port 9")]
    before, after = notebook(old, tags=("live",)), notebook(new, tags=("live",))
    assert kept(before, after) == [old]


def test_live_outputs_are_of_one_execution() -> None:
    """One that changed in words replaces all of them."""
    before = notebook([text("1 event")], [text("2 waits")], tags=("live",))
    after = notebook([text("7 events")], [text("3 waits")], tags=("live",))
    assert kept(before, after) == [[text("7 events")], [text("3 waits")]]


def test_other_outputs_are_always_new() -> None:
    """Without the tag a number that changed is a change."""
    assert kept(notebook([text("1 event")]), notebook([text("2 event")])) == [[text("2 event")]]


# ---- with a kernel ----------------------------------------------------------------------

RUN = (
    "from matplotlib import pyplot as plt\nfrom tqdm.auto import tqdm",
    "for number in tqdm(range(2)):\n    print(number)",
    "_ = plt.plot([1, 2])",
    "import os, time\nprint('time', time.monotonic_ns(), os.path.exists('../data'))",
    "open('left.txt', 'w').write('x');",
)


def unexecuted(folder: Path, *sources: str, name: str = "01-a") -> Path:
    """A notebook that was never executed."""
    cells = [new_markdown_cell("# A\n\n**Why?**"), *map(new_code_cell, sources)]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks for the command."""
    monkeypatch.setattr(make_notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr(make_index, "write", lambda _: None)
    return tmp_path


@pytest.mark.notebook
def test_the_command_stores_what_does_not_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Executed again, it stores the same bytes; a live number stays, other numbers do not."""
    monkeypatch.setenv("MPLBACKEND", "agg")  # of a user, and without figures
    path = unexecuted(folder, *RUN)
    make_notebooks.main(["--mark-live", "01"])
    assert "cell 4 is live" in capsys.readouterr().out
    first = path.read_bytes()
    made = nbformat.read(path, as_version=4)
    assert [cell.metadata.get("tags", []) for cell in made.cells[1:]] == [[], [], [], ["live"], []]
    assert [output.text for output in made.cells[2].outputs] == ["0\n1\n"]
    assert made.cells[3].outputs[0].metadata["image/png"]["width"] > 300
    assert [output.text.endswith("True\n") for output in made.cells[4].outputs] == [True]
    assert list(folder.iterdir()) == [path]
    (fault,) = make_notebooks.faults(path)  # a figure that is not of the package
    assert fault == "cell 3: a picture without a text alternative"
    make_notebooks.main(["01-a"])
    assert path.read_bytes() == first
    make_notebooks.main(["--fresh", str(path)])
    assert path.read_bytes() != first


@pytest.mark.notebook
def test_a_notebook_that_fails_is_left_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next one is stored all the same."""
    failing = unexecuted(folder, "assert 1 == 2")
    sound = unexecuted(folder, "print(3)", name="02-b")
    before = failing.read_bytes()
    assert make_notebooks.main([]) == 1
    assert failing.read_bytes() == before
    assert "AssertionError" in capsys.readouterr().out
    assert make_notebooks.faults(sound) == []


def test_an_index_that_cannot_be_made_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Path) -> None:
        raise ValueError("02-b.ipynb: the first cell")

    monkeypatch.setattr(make_index, "write", fail)
    assert make_notebooks.main([]) == 1
    assert capsys.readouterr().out == ("the index was left as it was: 02-b.ipynb: the first cell\n")


def test_an_unknown_name_lists_those_that_exist(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unexecuted(folder)
    with pytest.raises(SystemExit):
        make_notebooks.main(["07"])
    assert "'07' is not one of 01-a" in capsys.readouterr().err
