"""Time the training of N members: seedvote's engines against the ways in which it is done without them.

    python scripts/benchmark_engines.py --root DIR                          # everything; takes many hours
    python scripts/benchmark_engines.py --root DIR --members 10 --cases mlp-64-adamw lenet-64-adamw resnet-128-adamw
    python scripts/benchmark_engines.py --cases mlp-64-sgd --contestants "plain loop" fused "JAX vmap"
    python scripts/benchmark_engines.py --sample                            # to see that it runs

Contestants train the same members: model, data, batch size, optimizer, cosine schedule in epochs, weight decay on all
parameters, epochs, and validation (loss and accuracy) after each epoch; no augmentation, no label smoothing. Nobody
stores anything. Each runs in a process of its own, in turns over the repeats, the order of the turns shifted from one
repeat to the next.

- *plain loop*: what PyTorch's tutorials teach, one member after another; torch's default threads, a ``DataLoader`` that
  shuffles. It is spared the decoding and normalising of pictures one by one, which the tutorials do in the loader: it
  gets normalised tensors. *plain loop, one thread*: the same after ``torch.set_num_threads(1)``.
- *sequential*, *process*, *fused*, *auto*: seedvote's engines as its command runs them, with one thread a member, and
  with oneDNN for matrix products where ``matmul=auto`` takes it. They do more than the plain loop: raw pictures are
  normalised at each step, every draw has a generator of its own, weights are copied and looked through for NaN after
  each epoch. Images are channels-last, which the plain loop's are not. The time that ``auto`` takes to choose counts.
- *TorchEnsemble*: ``VotingClassifier``, without and with ``n_jobs``. Its validation is a vote of all members, and it
  may hand back the members of an earlier epoch, whose vote was as good.
- *JAX vmap*: an MLP's epoch under ``vmap`` and ``jit``, its steps in a ``scan``; written for the MLP alone.

Seconds run from data in memory to trained members: starting workers and compiling count, importing packages in the
first process does not. Python may keep its bytecode, whatever the shell says, for workers to import in seconds.

- *first step*: until any member took its first step (JAX: its first epoch, whose steps cannot be told apart).
- *ms a member's step*: without each member's first epoch, validation included.
- *of peak*: floating-point operations of a step's matrix products and convolutions, as ``torch.utils.flop_counter``
  counts them, by the time of a member's step, against the quickest large matrix product of one core and of all.
- *memory*: the peak of resident memory, summed over the process tree; pages that processes share count in each.
- *loss*, *accuracy*: means over the members, of their last weights on (up to 10,000) training samples without dropout,
  and on validation: whoever does less work shows here.

Ratios are taken within a repeat; their median and range are shown.

Results are kept in DIR/measurements.jsonl of ``--output DIR`` as they come. The same command goes on where it was cut
off; ``--table`` only writes table and figure from what is there. The rivals need ``pip install -e '.[benchmark]'``.
Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine_benchmark.cases import CASES, changed
from engine_benchmark.contestants import CONTESTANTS, compete, missing, takes_part

MEMBERS, REPEATS = (1, 2, 5, 10, 20), 3
SAMPLE: dict[str, Any] = {
    "cases": ["mlp-64-adamw"], "members": [2], "contestants": ["plain loop", "sequential", "fused"], "repeats": 1,
    "epochs": 2, "limit": 128,
}  # fmt: skip


def main() -> int:
    """Measure what is still to be measured, and write table and figure; or be the process that is measured."""
    options = arguments().parse_args()
    if options.job:
        be(json.loads(options.job))
        return 0
    if options.sample:
        given = {key: value for key, value in vars(options).items() if value is not None}
        options = argparse.Namespace(**{**vars(options), **SAMPLE, **given})
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "measurements.jsonl"
    failed = False if options.table else measure_all(options, file)
    from engine_benchmark.presentation import write_results

    write_results(options.output, stored(file))
    return int(failed)


def arguments() -> argparse.ArgumentParser:
    """Return the options; ``None`` stands for what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--members", nargs="+", type=int, help="numbers of members (default 1 2 5 10 20)")
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=f"of {', '.join(CONTESTANTS)}"
    )
    parser.add_argument("--repeats", type=int, help=f"default {REPEATS}")
    parser.add_argument("--epochs", type=int, help="instead of the case's own")
    parser.add_argument("--limit", type=int, help="training samples, instead of the case's own")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where MNIST and CIFAR-10 lie")
    parser.add_argument("--output", type=Path, default=Path("benchmarks"), help="where results, table and figure go")
    parser.add_argument("--sample", action="store_true", help="two small MLPs, a minute or less")
    parser.add_argument("--table", action="store_true", help="measure nothing, write table and figure")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser


def be(job: dict[str, Any]) -> None:
    """Do a job as the process that is measured."""
    from engine_benchmark import measure

    jobs = {"peak": measure.measure_peak, "voting": measure.measure_voting}
    jobs.get(job["contestant"], compete)(job)


def measure_all(options: argparse.Namespace, file: Path) -> bool:
    """Measure everything that is asked for and not yet stored; say whether anything failed."""
    from engine_benchmark import measure

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the process that is measured along
    here = measure.machine()
    check_machine(here, stored(file), file)
    data = options.output / "data"
    data.mkdir(exist_ok=True)
    known, failed = {json.dumps(record["key"]) for record in stored(file)}, False
    for key in wanted(options):
        if json.dumps(key) in known:
            continue
        case = changed(key["case"], key["epochs"], key["limit"]) if "case" in key else None
        try:
            if key["kind"] == "peak":
                found = measure.peak()
            elif key["kind"] == "voting":
                found = measure.voting(case, options.root, data)
            else:
                found = measure.training(key["contestant"], case, key["members"], options.root, data)
        except RuntimeError as error:
            failed = True
            print(f"FAILED     {label(key)}: {error}", file=sys.stderr, flush=True)
            continue
        record = {"key": key, "date": datetime.now(UTC).date().isoformat(), "machine": here, "found": found}
        append(file, {**record, "sample": options.sample})
        seconds = f": {found['seconds']:.1f} s" if "seconds" in found else ""
        print(f"{label(key)}{seconds}", file=sys.stderr, flush=True)
    return failed


def wanted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Name every measurement, in the order in which they are taken."""
    chosen = []
    for contestant in options.contestants or CONTESTANTS:
        if absent := missing(contestant):
            print(f"left out   {contestant}: pip install {' '.join(absent)}", file=sys.stderr)
        else:
            chosen.append(contestant)
    for repeat in range(options.repeats or REPEATS):
        yield {"kind": "peak", "repeat": repeat}
        for name in options.cases or CASES:
            case = changed(name, options.epochs, options.limit)
            common = {"case": name, "epochs": case.epochs, "limit": case.limit, "repeat": repeat}
            yield {"kind": "voting", **common}
            for members in options.members or MEMBERS:
                shifted = chosen[repeat % len(chosen) :] + chosen[: repeat % len(chosen)] if chosen else []
                for contestant in shifted:
                    if takes_part(contestant, case):
                        yield {"kind": "training", **common, "members": members, "contestant": contestant}


def label(key: dict[str, Any]) -> str:
    """Name a measurement for people."""
    parts = [key["kind"], key.get("case"), key.get("contestant"), f"repeat {key['repeat'] + 1}"]
    if "members" in key:
        parts.insert(2, f"N={key['members']}")
    return ", ".join(part for part in parts if part)


def stored(file: Path) -> list[dict[str, Any]]:
    """Read what was measured; a line that was cut off is measured again."""
    records = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def append(file: Path, record: dict[str, Any]) -> None:
    """Add a line, on a line of its own even behind one that was cut off."""
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a") as stream:
        stream.write(("" if whole else "\n") + json.dumps(record) + "\n")


def check_machine(here: dict[str, Any], records: list[dict[str, Any]], file: Path) -> None:
    """Refuse to set times of two machines, versions or states of the code beside each other."""
    for record in records:
        differing = [name for name, value in here.items() if record["machine"].get(name) != value]
        if differing:
            raise SystemExit(
                f"{file} holds times taken with another {', '.join(differing)}: name another --output, or move it away"
            )


if __name__ == "__main__":
    sys.exit(main())
