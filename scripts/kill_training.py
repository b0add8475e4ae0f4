"""Kill training again and again, and see that nothing finished is lost and that the end is always the same.

For each engine one run is trained without a break. The same run is then started over and over, killed with SIGKILL at
random moments (every second time the moment when a file is being written), started again until it is finished, and
compared with the first, byte for byte. After every kill everything on the disk must be whole.

    python scripts/kill_training.py --kills 50 --engines sequential process fused "fused engine.workers=1"
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from seedvote import train
from seedvote.store import check_member, read_run, read_snapshot

RECIPE = (
    "data=digits", "data.limit=200", "epochs=4", "batch_size=32", "model.hidden=[16]", "model.dropout=0.2",
    "augment=affine", "clip_norm=1.0", "patience=3", "n_seeds=3", "run=it", "device=cpu", "threads=1",
)  # fmt: skip
SEEDS = (0, 1, 2)
LONGEST = 120.0  # seconds that one attempt may take; none takes more than a few


@dataclass
class Tally:
    """What was seen. kills: attempts that were killed; resumed: of those, how many left members half trained."""

    kills: int = 0
    resumed: int = 0
    runs: int = 0


def main() -> None:
    """Kill each engine's training until it was killed so many times, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills for each engine")
    parser.add_argument("--engines", nargs="+", default=["sequential", "process", "fused"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for engine in arguments.engines:
        with tempfile.TemporaryDirectory() as place:
            tally = storm(engine, arguments.kills, random.Random(arguments.seed), Path(place))
        print(
            f"{engine}: {tally.kills} kills in {tally.runs} runs; {tally.resumed} left members half trained; "
            "nothing finished was lost, all final weights are those of an unbroken run",
            flush=True,
        )


def storm(engine: str, kills: int, chance: random.Random, place: Path) -> Tally:
    """Kill an engine's training so many times; raise ``AssertionError`` at the first thing that is not as promised."""
    command = [*RECIPE, *f"engine={engine}".split()]
    attempt([*command, f"checkpoints={place / 'whole'}"], None)
    expected = weights(place / "whole" / "it")
    assert len(expected) == len(SEEDS), "the unbroken run is not complete"
    # Saving after each step makes nearly every moment one around a save.
    command += ["save_every=0", f"checkpoints={place / 'broken'}"]
    first_save, end = attempt(command, None)
    assert first_save is not None, "training saves nothing"
    assert weights(place / "broken" / "it") == expected, "saving after each step changes the weights"
    shutil.rmtree(place / "broken")
    tally = Tally()
    while tally.kills < kills:
        tally.runs += 1
        finished: dict[int, bytes] = {}
        while True:
            moment = chance.uniform(*((0, first_save) if chance.random() < 0.1 else (first_save - 0.1, end)))
            _, ended = attempt(command, moment if tally.kills < kills else None, chance.random() < 0.5)
            finished = sound(place / "broken" / "it", finished)
            if ended is not None:
                break
            tally.kills += 1
            tally.resumed += any((place / "broken").rglob("state.safetensors"))
        assert weights(place / "broken" / "it") == expected, "the final weights are others"
        shutil.rmtree(place / "broken")
    return tally


def attempt(command: list[str], moment: float | None, while_writing: bool = False) -> tuple[float | None, float | None]:
    """Train in a process of its own and kill it after so many seconds, with ``while_writing`` when it next writes.

    Returns:
        Seconds until something was saved for the first time and until training ended, ``None`` for what never was.
    """
    first_save = None
    child = process(command)
    begun = time.monotonic()
    place = Path(command[-1].partition("=")[2])
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"training ended with wait status {status}"
            return first_save, time.monotonic() - begun
        passed = time.monotonic() - begun
        if first_save is None and any(place.glob("it/*/state.safetensors")):
            first_save = passed
        if moment is not None and passed > moment and (not while_writing or passed > moment + 1 or writing(place)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return first_save, None
        assert passed < LONGEST, "training hangs"
        time.sleep(0.0005)


def process(command: list[str]) -> int:
    """Start training in a fork of this process, which has imported everything already; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        sys.argv = ["seedvote.train", *command]
        # tqdm's own lock is one for all forks: who is killed while drawing a bar would keep it for ever.
        tqdm.set_lock(threading.RLock())
        try:
            train.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(99)
    return child


def writing(place: Path) -> bool:
    """Say whether a file is being written at this moment."""
    return any(place.glob("it/**/.*.tmp"))


def weights(run: Path) -> dict[str, bytes]:
    """Return every file of weights, whole."""
    return {path.parent.name: path.read_bytes() for path in run.glob("seed-*/model.safetensors")}


def sound(path: Path, finished: dict[int, bytes], seeds: Sequence[int] = SEEDS) -> dict[int, bytes]:
    """Check everything that lies in a run; return the weights of the members that are finished."""
    if not (path / "run.json").exists():
        assert not finished
        return {}
    run = read_run(path)
    now: dict[int, bytes] = {}
    for seed in seeds:
        if run.record_path(seed).exists():
            problem = check_member(run, seed)
            assert problem is None, problem
            now[seed] = run.weights_path(seed).read_bytes()
        elif run.snapshot_path(seed).exists():
            try:
                read_snapshot(run.snapshot_path(seed), seed, run.record.recipe_hash)
            except ValueError:  # another process may have finished the member at this moment
                assert run.record_path(seed).exists(), f"{run.snapshot_path(seed)} is not whole"
    assert {seed: now.get(seed) for seed in finished} == finished, "a finished member was lost or changed"
    return now


if __name__ == "__main__":
    main()
