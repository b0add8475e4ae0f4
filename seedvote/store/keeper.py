"""The run's directory as the training loop sees it: members are claimed, saved on the way, and stored when done."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from seedvote.errors import NotSaved
from seedvote.files import refuse_way_out, remove_temporary
from seedvote.store.members import check_member, set_aside, write_member
from seedvote.store.run import Run
from seedvote.store.snapshots import read_snapshot, write_snapshot
from seedvote.types import Snapshot, TrainedMember

# After an epoch nothing is saved until the work since the last save is so many times what that save took: so saving
# never takes more than 2 % of the time, and what a crash can cost stays a fraction of a second where epochs are short.
WORTH_SAVING = 50


@dataclass
class RunKeeper:
    """Keeps the members of a run; see ``seedvote.events.Keeper``.

    facts: keys of a member's record that its training does not know. save_every: seconds between saves inside an
    epoch; 0 saves after every step and every epoch. observes: whether a logger wants an ``Observation`` of each epoch.
    """

    run: Run
    facts: Mapping[str, Any]
    save_every: float
    observes: bool = False
    _saved: float = field(default=-math.inf, init=False)
    _cost: float = field(default=0.0, init=False)
    _notes: list[str] = field(default_factory=list, init=False)

    @contextmanager
    def claim(self, seeds: Sequence[int]) -> Iterator[list[int]]:
        """Lock members until the block ends; give those that nobody else has locked and that are not done.

        The operating system lets go of a lock when its process ends, however it ends.

        Raises:
            NotSaved: a member's directory or lock cannot be made; nobody is locked then.
        """
        with ExitStack() as held:
            mine = []
            for seed in seeds:
                refuse_way_out(self.run.member_path(seed), self.run.path)
                try:
                    self.run.member_path(seed).mkdir(exist_ok=True)
                    held.enter_context(_lock(self.run, seed).acquire(blocking=False))
                    if self.run.missing([seed]):
                        _sweep(self.run.member_path(seed))
                        mine.append(seed)
                except Timeout:
                    continue
                except OSError as error:
                    raise NotSaved([seed], error) from error
            self._saved, self._cost = time.monotonic(), 0.0
            yield mine

    def load(self, seed: int) -> Snapshot | None:
        """Return where a member stood; a damaged file is set aside and noted."""
        path = self.run.snapshot_path(seed)
        if not path.exists():
            return None
        try:
            refuse_way_out(path, self.run.path)
            return read_snapshot(path, seed, self.run.record.recipe_hash)
        except ValueError as error:
            kept = set_aside(path)
            assert kept is not None
            self._notes.append(f"seed {seed} starts from its first epoch: {error}; the file is kept as {kept.name}")
            return None

    def due(self, epoch_over: bool) -> bool:
        """Say whether it is time to save."""
        pause = min(WORTH_SAVING * self._cost, self.save_every) if epoch_over else self.save_every
        return time.monotonic() - self._saved >= pause

    def save(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Save where members stand, by seed.

        Raises:
            NotSaved: some cannot be saved; all others are.
        """
        started = time.monotonic()
        problems: dict[int, OSError] = {}
        for seed, snapshot in snapshots.items():
            try:
                write_snapshot(self.run.snapshot_path(seed), seed, self.run.record.recipe_hash, snapshot)
            except OSError as error:
                problems[seed] = error
        self._saved = time.monotonic()
        self._cost = self._saved - started
        if problems:
            first = next(iter(problems.values()))
            raise NotSaved(list(problems), first) from first

    def finish(self, member: TrainedMember) -> None:
        """Store a member and remove what resuming it would have needed.

        An error of the disk once the member is stored is noted: it is no reason to call the member failed.
        """
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            write_member(self.run, member, {**self.facts, "finished": finished})
        except OSError as error:
            if self.run.missing([member.seed]):
                raise
            self._notes.append(f"seed {member.seed} is stored, but a power failure now could lose it: {_words(error)}")
        snapshot = self.run.snapshot_path(member.seed)
        try:
            snapshot.unlink(missing_ok=True)
        except OSError as error:
            self._notes.append(f"seed {member.seed} is stored; its {snapshot.name} may be removed: {_words(error)}")

    def notes(self) -> list[str]:
        """Return what was found since this was last called."""
        notes, self._notes = self._notes, []
        return notes


def set_damaged_aside(run: Run, seed: int) -> list[Path]:
    """Give the files of a finished member other names if they are damaged, so that it is trained anew.

    Returns:
        The new names; none where another process did the same just now.
    """
    with _lock(run, seed):
        if run.missing([seed]) or check_member(run, seed) is None:
            return []
        kept = [set_aside(path) for path in (run.record_path(seed), run.weights_path(seed))]
        return [path for path in kept if path is not None]


def is_claimed(run: Run, seed: int) -> bool:
    """Say whether some process holds a member at this moment."""
    try:
        with _lock(run, seed).acquire(blocking=False):
            return False
    except Timeout:
        return True


def _lock(run: Run, seed: int) -> FileLock:
    return FileLock(run.member_path(seed) / ".lock")


def _sweep(directory: Path) -> None:
    """Remove the temporary files of a process that died while it wrote; whoever holds the lock may."""
    for name in ("model.safetensors", "member.json", "state.safetensors"):
        remove_temporary(directory / name)


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
