"""What stands on the pages: sentences, figures and tables under headings."""

from seedvote.sections.one_run import build
from seedvote.sections.runs import build_runs
from seedvote.sections.tables import Section, Table

__all__ = ["Section", "Table", "build", "build_runs"]
