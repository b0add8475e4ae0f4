"""Run docs/tutorial.ipynb from top to bottom, and store what its cells put out.

    python scripts/execute_tutorial.py

The kernel has this Python and this checkout's seedvote. A cell that fails ends it, and the notebook stays as it was.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
TIMEOUT = 600  # seconds for one cell


def executed(notebook: NotebookNode, directory: Path) -> NotebookNode:
    """Return the notebook with the outputs of all its cells, executed in an empty directory.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        nbformat.from_dict(notebook),
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(directory)}},
    )
    # Without kernels that are installed elsewhere, python3 is the Python that runs this.
    client.create_kernel_manager().kernel_spec_manager.kernel_dirs = []
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    places = {name: str(directory) for name in ("TMPDIR", "TEMP", "TMP", "IPYTHONDIR")}
    found: NotebookNode = client.execute(env={**os.environ, **places, "PYTHONPATH": path})
    # Which patch release of Python it was is nobody's concern.
    found.metadata = notebook.metadata
    return found


def main() -> None:
    """Execute the tutorial in a directory that is removed afterwards, and write it."""
    with tempfile.TemporaryDirectory() as directory:
        found = executed(nbformat.read(TUTORIAL, as_version=4), Path(directory))
    nbformat.write(found, TUTORIAL)


if __name__ == "__main__":
    main()
