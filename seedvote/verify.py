"""``python -m seedvote.verify``: check every file of a run against its digest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedvote.command import run_command
from seedvote.schemas import VerifyConfig

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    from seedvote.store import Run


@dataclass(frozen=True)
class Finding:
    """What verifying found of one member.

    state: ``sound``, ``diverged`` (and sound), ``half trained``, ``not trained`` or ``damaged``. sha256: of the
    weights that were read. problem: what is wrong with its files.
    """

    seed: int
    state: str
    epochs: int | None = None
    sha256: str | None = None
    problem: str | None = None


def verify(config: VerifyConfig) -> int:
    """Check a run and print what is sound; return 0 if all its members are finished and sound, else 1."""
    from seedvote.report import table
    from seedvote.store import find_run

    run = find_run(Path(config.checkpoints), config.run)
    findings = [_checked(run, seed) for seed in run.record.seeds]
    problem = _preprocessing_problem(run)
    print(f"run        {run.path}: run.json is sound")
    if run.record.preprocessing is not None and problem is None:
        print(f"inputs     {run.preprocessing_path} is sound")
    rows = [[f"seed {found.seed}", found.epochs, found.state, found.sha256 and found.sha256[:16]] for found in findings]
    shown = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    print(f"\n{table(('member', 'epochs', 'state', 'SHA-256 begins with'), shown)}\n")
    for text in _aside(run):
        print(f"note       {text}")
    sound = [found for found in findings if found.state in ("sound", "diverged")]
    print(f"{len(sound)} of {len(findings)} members are finished and sound")
    sys.stdout.flush()
    if problem is not None:
        print(f"damaged    {problem}", file=sys.stderr)
    _complain(run, findings)
    return 0 if len(sound) == len(findings) and problem is None else 1


def _preprocessing_problem(run: Run) -> str | None:
    from seedvote.store import read_preprocessing

    try:
        read_preprocessing(run)
    except ValueError as error:
        return str(error)
    return None


def _checked(run: Run, seed: int) -> Finding:
    from seedvote.store import check_member, read_member, read_snapshot

    if run.missing([seed]):
        path = run.snapshot_path(seed)
        if not path.exists():
            return Finding(seed, "not trained")
        try:
            snapshot = read_snapshot(path, seed, run.record.recipe_hash)
        except ValueError as error:
            if not run.missing([seed]):  # it was finished meanwhile
                return _checked(run, seed)
            return Finding(seed, "damaged", problem=str(error))
        return Finding(seed, "half trained", epochs=len(snapshot.history))
    problem = check_member(run, seed)
    if problem is not None:
        return Finding(seed, "damaged", problem=problem)
    record = read_member(run, seed)
    state = "diverged" if record.diverged else "sound"
    return Finding(seed, state, epochs=len(record.history), sha256=record.sha256)


def _aside(run: Run) -> list[str]:
    """Name what lies in the run and belongs to none of its members."""
    known = {run.member_path(seed) for seed in run.record.seeds}
    strange = [path for path in sorted(run.path.glob("seed-*")) if path not in known]
    kept = sorted(run.path.glob("seed-*/*.damaged-*"))
    return [f"{path} is no member that run.json names" for path in strange] + [
        f"{path} was damaged and set aside" for path in kept
    ]


def _complain(run: Run, findings: list[Finding]) -> None:
    """Say what is wrong and which command mends it."""
    for found in findings:
        if found.problem:
            print(f"damaged    seed {found.seed}: {found.problem}", file=sys.stderr)
    if any(found.state == "damaged" for found in findings):
        print(f"train damaged members anew:\n  {run.record.command} on_damaged=retrain", file=sys.stderr)
    elif any(found.state in ("half trained", "not trained") for found in findings):
        print(f"train what is missing:\n  {run.record.command}", file=sys.stderr)


def main() -> None:
    """Run the command."""
    run_command("verify", VerifyConfig, verify)


if __name__ == "__main__":
    main()
