"""Start several processes on one run at once, kill some of them, and see that each member is trained once.

In each round two to four processes begin the same command at the same moment. One after the other is killed with
SIGKILL at a random moment and started again, a few times; then all are left to finish. A member that is stored must
never be stored again, none may be lost, and the weights must be those of one process alone, byte for byte.

    python scripts/train_at_once.py --rounds 20 --engines sequential "fused engine.workers=1 engine.width=2"
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from kill_training import RECIPE, attempt, process, sound, weights

MEMBERS = 6
LONGEST = 120.0  # seconds that a round may take


def main() -> None:
    """Play the rounds of each engine and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds for each engine")
    parser.add_argument("--engines", nargs="+", default=["sequential", "fused engine.workers=1 engine.width=2"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for engine in arguments.engines:
        with tempfile.TemporaryDirectory() as place:
            started, kills = crowd(engine, arguments.rounds, random.Random(arguments.seed), Path(place))
        print(
            f"{engine}: {arguments.rounds} rounds, {started} processes, {kills} kills; each of {MEMBERS} members was "
            "stored once in each round, none was lost, all weights are those of one process alone",
            flush=True,
        )


def crowd(engine: str, rounds: int, chance: random.Random, place: Path) -> tuple[int, int]:
    """Play rounds; return how many were started and killed; raise ``AssertionError`` at what is not as promised."""
    command = [*RECIPE, f"n_seeds={MEMBERS}", *f"engine={engine}".split(), "save_every=0"]
    _, alone = attempt([*command, f"checkpoints={place / 'alone'}"], None)
    assert alone is not None
    expected = weights(place / "alone" / "it")
    assert len(expected) == MEMBERS, "the run of one process is not complete"
    started = kills = 0
    for number in range(rounds):
        processes = 2 + number % 3
        more, killed = one_round([*command, f"checkpoints={place / 'crowded'}"], processes, alone, chance)
        started, kills = started + more, kills + killed
        assert weights(place / "crowded" / "it") == expected, "the final weights are others"
        shutil.rmtree(place / "crowded")
    return started, kills


def one_round(command: list[str], processes: int, alone: float, chance: random.Random) -> tuple[int, int]:
    """Let processes train one run, some of them killed and started again; return how many were started and killed."""
    run = Path(command[-1].partition("=")[2]) / "it"
    children = [process(command) for _ in range(processes)]
    started, kills = processes, 0
    # Before the soonest end that so many processes could reach together, so that nearly every kill meets training.
    moments = sorted(chance.uniform(0, alone / processes) for _ in range(processes))
    finished: dict[int, bytes] = {}
    stored: dict[Path, int] = {}
    begun = time.monotonic()
    while children:
        assert time.monotonic() - begun < LONGEST, "training hangs"
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, f"training ended with wait status {status}"
                children.remove(child)
        if moments and time.monotonic() - begun > moments[0] and children:
            moments.pop(0)
            victim = children.pop(chance.randrange(len(children)))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            children.append(process(command))
            started, kills = started + 1, kills + 1
            finished = sound(run, finished, range(MEMBERS))
        for record in run.glob("seed-*/member.json"):
            assert stored.setdefault(record, record.stat().st_ino) == record.stat().st_ino, f"{record} was stored twice"
        time.sleep(0.002)
    finished = sound(run, finished, range(MEMBERS))
    assert len(finished) == MEMBERS, "a member is missing"
    return started, kills


if __name__ == "__main__":
    main()
