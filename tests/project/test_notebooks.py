"""The notebooks: each runs from top to bottom, and is committed as it ran."""

import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.notebooks
@each
def test_it_runs(path, tmp_path):
    """Its assertions hold, and it writes nothing where it runs."""
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(read(path), timeout=600, resources=resources).execute()
    assert not list(tmp_path.iterdir())


def test_they_are_numbered():
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@each
def test_it_is_committed_as_it_ran(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


@each
def test_it_installs_itself_with_one_cell(path):
    installs = [cell for cell in code_cells(read(path)) if "pip install" in cell.source]
    assert len(installs) == 1
    assert '"jaxconv[notebooks]' in installs[0].source  # docs/extensions/address.py adds one


@each
def test_it_claims_only_what_it_computes(path):
    """Every section has code, and the notebook checks itself."""
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    assert source.count("assert ") >= 3


@each
def test_its_links_lead_somewhere(path):
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)]+\.ipynb)\)", prose):
        assert (FOLDER / target).exists(), target


@each
def test_it_names_no_folder_of_the_machine_it_ran_on(path):
    assert not re.search(r"/(root|home|tmp|work|Users)/", path.read_text())
