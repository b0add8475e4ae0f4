"""docs/tutorial.ipynb: what is stored is whole, and it runs from top to bottom with this Python and this checkout."""

from __future__ import annotations

import base64
import io
import json
import re
import sys

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))

from execute_tutorial import TUTORIAL, executed

FIGURES = ("spread", "disagree", "size", "pictures", "source")
PRINTED = ("train", "files", "spread", "vote", "disagree", "luck", "sure", "later", "source")
# A path from the root of a Unix or Windows machine, or from a home.
ABSOLUTE = re.compile(r"(?<![\w.:/])/\w[\w.-]*/|\b[A-Za-z]:\\|~/|file://")
AGAIN = "the notebook's outputs are old: python scripts/execute_tutorial.py"


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(TUTORIAL, as_version=4)


@pytest.fixture(scope="module")
def ran(stored, tmp_path_factory):
    """The notebook, executed with one more cell, and the directory it was executed in."""
    asked = new_code_cell("print(sys.executable)\nprint(seedvote.__file__)", id="asked")
    directory = tmp_path_factory.mktemp("tutorial")
    before = sorted(TUTORIAL.parent.iterdir())
    found = executed(nbformat.from_dict({**stored, "cells": [*stored.cells, asked]}), directory)
    assert sorted(TUTORIAL.parent.iterdir()) == before
    return found, directory


def code(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell):
    found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def check_outputs(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1)), AGAIN
    for cell in cells.values():
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data", "execute_result"), output
            assert output.get("name", "stdout") == "stdout", output.text
    assert {name for name in cells if printed(cells[name])} >= set(PRINTED), AGAIN
    assert {name for name in cells if pictures(cells[name])} == set(FIGURES), AGAIN
    for name in FIGURES:
        (picture,) = pictures(cells[name])
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_what_is_stored_is_whole(stored):
    nbformat.validate(stored)
    check_outputs(stored)


def test_what_is_stored_says_nothing_of_the_machine(stored):
    for text in ("/home/somebody/x", "run in /tmp/x", r"C:\Users", "~/x"):
        assert ABSOLUTE.search(text)
    for cell in code(stored).values():
        for output in cell.outputs:
            texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
            for text in texts:
                assert not ABSOLUTE.search(text), text
                assert "warning" not in text.lower()
    assert stored.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell.metadata == {} for cell in stored.cells)


def test_links_lead_to_files(stored):
    text = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {"../README.md", "statistics.md", "comparison.md"} <= set(links)
    for link in links:
        assert (TUTORIAL.parent / link.partition("#")[0]).is_file(), link


@pytest.mark.slow
def test_it_runs_with_this_python_and_this_checkout(ran, stored):
    found, directory = ran
    cells = code(found)
    executable, package = printed(cells.pop("asked")).split()
    assert executable == sys.executable
    assert package == str(ROOT / "seedvote" / "__init__.py")
    check_outputs(nbformat.from_dict({**found, "cells": found.cells[:-1]}))
    # The same recipe on the same data, so what is stored shows what these cells do.
    assert printed(code(stored)["train"]).splitlines()[:3] == printed(cells["train"]).splitlines()[:3], AGAIN
    (work,) = directory.glob("seedvote-tutorial-*")
    (run,) = work.glob("checkpoints/digits-mlp-*")
    assert len(list(run.glob("seed-*/model.safetensors"))) == 12


@pytest.mark.slow
def test_its_numbers_are_those_of_the_report(ran):
    found, directory = ran
    cells = code(found)
    (file,) = directory.glob("seedvote-tutorial-*/checkpoints/digits-mlp-*/report/comparison.json")
    comparison = json.loads(file.read_text(encoding="utf-8"))
    assert comparison["seeds"] == list(range(10))
    assert not comparison["sample"]

    accuracy = comparison["members"]["test"]["accuracy"]
    assert f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['deviation']:.2f} %" in printed(cells["spread"])
    voted = printed(cells["vote"])
    assert f"chosen seed {comparison['members']['chosen']}:" in voted
    for vote in comparison["votes"]:
        if vote["rule"] in ("soft", "majority"):
            line = f"{vote['rule']} vote: {100 * vote['scores']['accuracy']:.2f} %"
            outcome = f"won {len(vote['chosen']['won_samples'])} and lost {len(vote['chosen']['lost_samples'])} images"
            assert re.search(f"^{re.escape(line)}.*{outcome}", voted, re.MULTILINE), voted

    assert comparison["verdict"]["committee"] in ("gain", "no gain", "loss")
    assert f"Verdict: {comparison['verdict']['committee']}." in printed(cells["sure"])
    assert " ".join(printed(cells["luck"]).split()).startswith(comparison["verdict"]["headline"])
    shown, sheet = pictures(cells["pictures"])[0], Image.open(file.parent / "pictures.png")
    assert np.array_equal(np.asarray(shown), np.asarray(sheet))


@pytest.mark.slow
def test_members_that_come_later_change_nothing(ran):
    lines = printed(code(ran[0])["later"]).splitlines()
    assert lines[-3:] == [
        "10 members before, 12 after",
        "the ten of before are unchanged: True",
        "3 and 11 trained elsewhere are the same: True",
    ]


def test_a_command_that_fails_stops_the_notebook(stored, tmp_path):
    cells = [code(stored)[name] for name in ("setup", "python-m")]
    wrong = new_notebook(
        cells=[*cells, new_code_cell('python_m("seedvote.train n_seed=10")')], metadata=stored.metadata
    )
    with pytest.raises(CellExecutionError, match="did you mean 'n_seeds'"):
        executed(wrong, tmp_path)
