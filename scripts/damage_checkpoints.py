"""Damages stored members, snapshots and records: all of it must be noticed, and nothing damaged may be loaded.

    python scripts/damage_checkpoints.py [--cases 12000] [--seed 0] [--case NUMBER]

Each case is a copy of a small run with one kind of seeded damage; where every byte stayed as it was, it is drawn again.
Digests are not made to fit: that is what ``fuzz_readers.py`` does. *Noticed* means:

- of a finished member: ``load`` raises a ``ValueError`` of one line that names the member, ``on_bad_member="drop"``
  drops the damaged members and no others, whose logits are as before, and ``check_member`` says what is wrong;
- of ``run.json``: ``load`` raises a ``ValueError`` that names a file of the run, with ``drop`` as without;
- of a snapshot: ``read_snapshot`` raises a ``ValueError`` that names it; ``RunKeeper.load`` gives nothing, keeps the
  file under another name and notes it; the other members' snapshots are read.

*Loaded*: something damaged was returned. *Crashed*: another exception, the end of the process, more than 20 seconds.
*Otherwise*: a message that names nothing, output, another file changed. Exit status 1 if there is any of these.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fuzz_readers import limited_time, make_run, tree
from mutations import changed_json, changed_safetensors, damaged
from readers import something_else
from seedvote.files import write_json
from seedvote.inference import load
from seedvote.store import RunKeeper, check_member, read_member, read_run, read_snapshot, read_weights, write_member
from seedvote.store.records import sealed
from seedvote.types import EpochRecord, TrainedMember

RECIPE = ("n_seeds=3", "epochs=2", "model.hidden=[8,8]", "device=cpu", "threads=1", "engine=sequential")
SEEDS = (0, 1, 2)
WEIGHTS, RECORD, SNAPSHOT, RUN = "model.safetensors", "member.json", "state.safetensors", "run.json"
ANSWERS = ("noticed", "loaded", "crashed", "otherwise")

Bytes = Callable[[bytes, random.Random], bytes]


class Unlike(Exception):
    """Something that is not as promised; the first argument is one of ``ANSWERS``."""


class Sound:
    """Sound runs that damage starts from, and what their members say.

    run: finished, of three seeds. other: the same of another recipe, with networks of the same shape. earlier: of the
    same recipe, with weights that differ a little. half, other_half: ``run`` and ``other`` half trained.
    """

    def __init__(self, place: Path) -> None:
        """Train them."""
        self.run, self.half = _halfway(place / "first")
        self.other, self.other_half = _halfway(place / "second", "batch_size=8")
        self.earlier = shutil.copytree(self.run, place / "third" / "run")
        run = read_run(self.earlier)
        for seed in SEEDS:
            record = read_member(run, seed)
            state = {
                name: tensor * (1 + 1e-6) if tensor.is_floating_point() else tensor
                for name, tensor in read_weights(run, record).items()
            }
            history = tuple(EpochRecord(**row) for row in record.history)  # type: ignore[arg-type]
            member = TrainedMember(seed, state, history, record.kept_epoch, record.seconds, None, record.engine)
            facts = {name: getattr(record, name) for name in ("device", "threads", "versions")}
            write_member(run, member, {**facts, "finished": "2020-01-01T00:00:00+00:00"})
        ensemble = load(self.run, device="cpu")
        record = ensemble.run.record
        self.inputs = torch.ones((2, *record.input_shape), dtype=getattr(torch, record.input_dtype))
        self.logits = ensemble.predict_logits(self.inputs)
        self.contents = {path: _contents(path) for path in (self.run, self.half)}


@dataclass(frozen=True)
class Kind:
    """A kind of damage.

    what: ``member``, ``run.json`` or ``snapshot``. damage: damages a copy of a run and returns the seeds it damaged.
    share: how often it is drawn, set against the others.
    """

    what: str
    name: str
    damage: Callable[[Sound, Path, random.Random], set[int]]
    share: int = 1


def outcome(sound: Sound, kind: Kind, dice: random.Random) -> tuple[str, str, str]:
    """Run one case; return one of ``ANSWERS``, the reason where it is not ``noticed``, and a digest of the damage."""
    start = sound.half if kind.what == "snapshot" else sound.run
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        for _ in range(100):
            shutil.copytree(start, place, copy_function=os.link)
            bad = kind.damage(sound, place, dice)
            contents = _contents(place)
            if contents != sound.contents[start]:
                break
            shutil.rmtree(place)
        else:
            raise RuntimeError(f"{kind.name} changes nothing")
        before = tree(Path(directory))
        found, reason, moved = "noticed", "", {}
        said = io.StringIO()
        try:
            with limited_time(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                moved = CHECKS[kind.what](sound, place, bad)
        except Unlike as problem:
            found, reason = problem.args
        except BaseException as error:
            found, reason = "crashed", f"{type(error).__name__}: {str(error)[:200]}"
        expected = {moved.get(path, path): status for path, status in before.items()}
        after = tree(Path(directory))
        if found == "noticed" and said.getvalue():
            found, reason = "otherwise", f"wrote {said.getvalue()[:200]!r}"
        if found == "noticed" and _without_times(after) != _without_times(expected):
            found, reason = "otherwise", f"changed {sorted(set(after) ^ set(expected))[:3]}"
        return found, reason, hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()


def check_finished(sound: Sound, place: Path, bad: set[int]) -> dict[str, str]:
    """Check that damage to members is noticed."""
    message = _refusal(lambda: load(place, device="cpu"), "seed")
    unnamed = [seed for seed in bad if not any(name in message for name in (f"seed {seed}", f"missing seeds {seed}"))]
    if unnamed and not (message.count("missing seeds") and len(bad) > 1):
        raise Unlike("otherwise", f"seeds {unnamed} not named: {message!r}")
    if len(bad) == len(SEEDS):
        _refusal(lambda: load(place, device="cpu", on_bad_member="drop"), "no member that can be used")
    else:
        ensemble = load(place, device="cpu", on_bad_member="drop")
        good = [seed for seed in SEEDS if seed not in bad]
        if list(ensemble.seeds) != good:
            raise Unlike("loaded" if set(ensemble.seeds) & bad else "otherwise", f"members {ensemble.seeds} of {good}")
        if set(ensemble.dropped) != bad:
            raise Unlike("otherwise", f"dropped {ensemble.dropped} instead of {bad}")
        if (ensemble.predict_logits(sound.inputs) != sound.logits[good]).any():
            raise Unlike("loaded", "the undamaged members say something else")
    run = read_run(place)
    for seed in SEEDS:
        problem = check_member(run, seed)
        if (problem is not None) != (seed in bad) or "\n" in (problem or ""):
            raise Unlike("loaded" if problem is None else "otherwise", f"check_member says {problem!r} of seed {seed}")
    return {}


def check_run(sound: Sound, place: Path, bad: set[int]) -> dict[str, str]:
    """Check that damage to ``run.json`` is noticed."""
    for mode in ("error", "drop"):
        _refusal(lambda mode=mode: load(place, device="cpu", on_bad_member=mode), str(place))  # type: ignore[misc]
    return {}


def check_snapshots(sound: Sound, place: Path, bad: set[int]) -> dict[str, str]:
    """Check that damage to snapshots is noticed; return the new names of the files that are set aside."""
    run = read_run(place)
    keeper = RunKeeper(run, {}, 0)
    moved = {}
    for seed in SEEDS:
        path = run.snapshot_path(seed)
        if seed in bad:
            _refusal(lambda path=path, seed=seed: read_snapshot(path, seed, run.record.recipe_hash), str(path))  # type: ignore[misc]
            moved[str(path)] = f"{path}.damaged-1"
        snapshot, notes = keeper.load(seed), keeper.notes()
        if (snapshot is None) != (seed in bad):
            raise Unlike("loaded" if snapshot else "otherwise", f"the snapshot of seed {seed}: {snapshot}")
        if [note.startswith(f"seed {seed} ") and "\n" not in note for note in notes] != [True] * (seed in bad):
            raise Unlike("otherwise", f"notes about seed {seed}: {notes}")
    return moved


CHECKS = {"member": check_finished, "run.json": check_run, "snapshot": check_snapshots}


def one_bit(content: bytes, dice: random.Random) -> bytes:
    return _with_bits(content, dice, 1)


def many_bits(content: bytes, dice: random.Random) -> bytes:
    return _with_bits(content, dice, dice.choice([2, 3, 8, 64]))


def zeroed(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(content))
    length = min(len(content) - place, dice.choice([1, 2, 8, 64, 512, 4096]))
    return content[:place] + bytes(length) + content[place + length :]


def cut(content: bytes, dice: random.Random) -> bytes:
    return content[: -dice.choice([1, 2, 8, dice.randrange(1, len(content))])]


def extended(content: bytes, dice: random.Random) -> bytes:
    length = dice.choice([1, 8, 100, 4096])
    return content + dice.choice([bytes(length), dice.randbytes(length), content[:length], b"\n", b" ", content])


def other_ends_of_lines(content: bytes, dice: random.Random) -> bytes:
    return content.replace(b"\n", dice.choice([b"\r\n", b"\r"]), dice.choice([-1, 1, 2]))


def other_values(content: bytes, dice: random.Random) -> bytes:
    return (json.dumps(changed_json(json.loads(content), dice), indent=1) + "\n").encode()


def tensors_swapped(content: bytes, dice: random.Random) -> bytes:
    """Let two tensors of one form and other contents change places in the file."""
    fields, data = _header(content)

    def form(name: str) -> tuple[Any, ...]:
        return (fields[name]["dtype"], fields[name]["shape"])

    def values(name: str) -> bytes:
        return data[slice(*fields[name]["data_offsets"])]

    names = [name for name in sorted(fields) if name != "__metadata__"]
    pairs = [
        (one, two)
        for one in names
        for two in names
        if form(one) == form(two) and one < two and values(one) != values(two)
    ]
    one, two = dice.choice(pairs)
    fields[one], fields[two] = fields[two], fields[one]
    return _with_header(fields, data)


def tensor_renamed(content: bytes, dice: random.Random) -> bytes:
    fields, data = _header(content)
    name = dice.choice([name for name in sorted(fields) if name != "__metadata__"])
    place = dice.randrange(len(name))
    new = dice.choice([name + "x", name[:place] + dice.choice("abcxyz019._/") + name[place + 1 :], name[1:], name * 2])
    if new in fields:
        return content
    return _with_header({new if key == name else key: value for key, value in fields.items()}, data)


ANY_FILE: dict[str, tuple[Bytes, int]] = {
    "one bit flipped": (one_bit, 6),
    "several bits flipped": (many_bits, 6),
    "bytes set to zero": (zeroed, 6),
    "cut short": (cut, 5),
    "made longer": (extended, 5),
    "several of these, splices, numbers": (lambda content, dice: damaged(content, dice, content), 6),
}
JSON_FILE: dict[str, tuple[Bytes, int]] = {
    "other values": (other_values, 6),
    "other ends of lines": (other_ends_of_lines, 1),
}
TENSOR_FILE: dict[str, tuple[Bytes, int]] = {
    "another header": (changed_safetensors, 6),
    "tensors swapped": (tensors_swapped, 3),
    "a tensor renamed": (tensor_renamed, 3),
}


def all_kinds() -> list[Kind]:
    """Return every kind of damage."""
    kinds = []
    for what, name, ways in (
        ("member", WEIGHTS, ANY_FILE | TENSOR_FILE),
        ("member", RECORD, ANY_FILE | JSON_FILE),
        ("run.json", RUN, ANY_FILE | JSON_FILE),
        ("snapshot", SNAPSHOT, ANY_FILE | TENSOR_FILE),
    ):
        kinds += [Kind(what, f"{name}: {way}", _in_place(name, change), share) for way, (change, share) in ways.items()]
        kinds.append(Kind(what, f"{name}: empty", _in_place(name, lambda *_: b"")))
        kinds.append(Kind(what, f"{name}: a directory instead", _instead(name, lambda path, _: path.mkdir())))
        kinds.append(Kind(what, f"{name}: a pipe, a link or a huge empty file instead", _instead(name, _no_such_file)))
        if name != SNAPSHOT:  # one that is gone is a member that was never saved
            kinds.append(Kind(what, f"{name}: deleted", _instead(name, lambda *_: None)))
    for names, words in (((WEIGHTS,), "weights"), ((RECORD,), "record"), ((WEIGHTS, RECORD), "weights and record")):
        kinds.append(Kind("member", f"{words} of another member", _swapped(names)))
        kinds.append(Kind("member", f"{words} exchanged between two members", _swapped(names, both=True)))
        kinds.append(Kind("member", f"{words} of another recipe's run", _brought("other", names)))
        if len(names) == 1:
            kinds.append(Kind("member", f"{words} of an earlier training", _brought("earlier", names)))
    kinds += [
        Kind("member", "record of an earlier format", _earlier_member),
        Kind("member", "several members, bits flipped or cut short", _several, 4),
        Kind("run.json", "run.json of another recipe's run", _other_run),
        Kind("run.json", "run.json of an earlier format", _earlier_format),
        Kind("run.json", "run.json from before some seeds were added", _fewer_seeds),
        Kind("snapshot", "snapshot of another member", _swapped((SNAPSHOT,))),
        Kind("snapshot", "snapshots exchanged between two members", _swapped((SNAPSHOT,), both=True)),
        Kind("snapshot", "snapshot of another recipe's run", _brought("other_half", (SNAPSHOT,))),
        Kind("snapshot", "weights in a snapshot's place", _weights_as_snapshot),
    ]
    return kinds


def kind_of(case: int, kinds: list[Kind]) -> Kind:
    """Return the kind of a case: each as often as its share says, in turn."""
    most = max(kind.share for kind in kinds)
    turns = [kind for turn in range(most) for kind in kinds if turn < kind.share]
    return turns[case % len(turns)]


def run_case(sound: Sound, seed: int, case: int) -> tuple[str, str, str]:
    """Run a case by its number; see ``outcome``."""
    return outcome(sound, kind_of(case, all_kinds()), random.Random(f"{seed}/{case}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        sound = Sound(Path(directory))
        started = time.monotonic()
        kinds = all_kinds()
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        different: dict[str, set[str]] = defaultdict(set)
        cases = range(options.cases) if options.case is None else range(options.case, options.case + 1)
        for case, (found, reason, digest) in _in_processes(sound, options.seed, cases):
            kind = kind_of(case, kinds)
            counts[kind.name][found] += 1
            different[kind.name].add(digest)
            if found != "noticed":
                print(f"FAILED {kind.name} --seed {options.seed} --case {case}: {found}: {reason}", flush=True)
    total = sum(counts.values(), Counter[str]())
    rows = [(kind.name, counts[kind.name], len(different[kind.name])) for kind in kinds if counts[kind.name]]
    rows.append(("**all**", total, sum(row[2] for row in rows)))
    print(f"| damage | cases | different | {' | '.join(ANSWERS)} |\n|---|---|---|---|---|---|---|")
    for name, row, distinct in rows:
        print(f"| {name} | {row.total():,} | {distinct:,} | {' | '.join(f'{row[answer]:,}' for answer in ANSWERS)} |")
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in ("torch", "safetensors"))
    print(f"Python {platform.python_version()}, {versions}; {time.monotonic() - started:.0f} s")
    sys.exit(0 if total["noticed"] == len(cases) else 1)


def _in_processes(sound: Sound, seed: int, cases: range) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Run cases in a process of their own, and in another one from the next case on where a case ended it."""
    context = multiprocessing.get_context("fork")
    while cases:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(sound, seed, cases, sender))
        process.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while cases:
                result = receiver.recv()
                yield cases[0], result
                cases = cases[1:]
        process.join()
        if cases:
            yield cases[0], ("crashed", f"the process ended with {process.exitcode}", "")
            cases = cases[1:]


def _child(sound: Sound, seed: int, cases: range, sender: Connection) -> None:
    for case in cases:
        sender.send(run_case(sound, seed, case))


def _halfway(place: Path, *more: str) -> tuple[Path, Path]:
    """Train a run; return it and the same run as it stood after each member's first epoch."""
    half = place / "half"
    save = RunKeeper.save

    def save_and_keep(keeper: RunKeeper, snapshots: Any) -> None:
        save(keeper, snapshots)
        for seed, snapshot in snapshots.items():
            kept = half / f"seed-{seed:04d}"
            if len(snapshot.history) == 1 and snapshot.step == 1:
                kept.mkdir(parents=True)
                shutil.copy(keeper.run.snapshot_path(seed), kept)

    with mock.patch.object(RunKeeper, "save", save_and_keep):
        run = make_run(place, *RECIPE, "save_every=0", "batch_size=16", *more)
    shutil.copy(run / RUN, half)
    for lock in run.rglob(".lock"):
        lock.unlink()
    return run, half


def _in_place(name: str, change: Bytes) -> Callable[[Sound, Path, random.Random], set[int]]:
    def damage(sound: Sound, place: Path, dice: random.Random) -> set[int]:
        seed, path = _drawn(name, place, dice)
        _put(path, change(path.read_bytes(), dice))
        return {seed}

    return damage


def _instead(
    name: str, make: Callable[[Path, random.Random], object]
) -> Callable[[Sound, Path, random.Random], set[int]]:
    def damage(sound: Sound, place: Path, dice: random.Random) -> set[int]:
        seed, path = _drawn(name, place, dice)
        path.unlink()
        make(path, dice)
        return {seed}

    return damage


def _no_such_file(path: Path, dice: random.Random) -> None:
    """Put there a pipe, a directory, a link that leads somewhere, a huge or an empty file."""
    while not path.exists():
        path.unlink(missing_ok=True)
        path.touch()
        something_else(path, dice)


def _swapped(names: tuple[str, ...], both: bool = False) -> Callable[[Sound, Path, random.Random], set[int]]:
    def damage(sound: Sound, place: Path, dice: random.Random) -> set[int]:
        here, there = dice.sample(SEEDS, 2)
        for name in names:
            one, two = (place / f"seed-{seed:04d}" / name for seed in (here, there))
            old, new = one.read_bytes(), two.read_bytes()
            _put(one, new)
            if both:
                _put(two, old)
        return {here, there} if both else {here}

    return damage


def _brought(source: str, names: tuple[str, ...]) -> Callable[[Sound, Path, random.Random], set[int]]:
    def damage(sound: Sound, place: Path, dice: random.Random) -> set[int]:
        seed = dice.choice(SEEDS)
        for name in names:
            inside = Path(f"seed-{seed:04d}") / name
            _put(place / inside, (getattr(sound, source) / inside).read_bytes())
        return {seed}

    return damage


def _several(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    bad = set(dice.sample(SEEDS, dice.choice([2, 2, 3])))
    for seed in bad:
        path = place / f"seed-{seed:04d}" / dice.choice([WEIGHTS, RECORD])
        _put(path, dice.choice([one_bit, cut])(path.read_bytes(), dice))
    return bad


def _earlier_member(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    seed, path = _drawn(RECORD, place, dice)
    _of_format_1(path)
    return {seed}


def _earlier_format(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    _of_format_1(place / RUN)
    return set()


def _of_format_1(path: Path) -> None:
    values = json.loads(path.read_bytes())
    path.unlink()
    write_json(path, sealed({**values, "format": 1}))


def _other_run(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    _put(place / RUN, (sound.other / RUN).read_bytes())
    return set()


def _fewer_seeds(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    record = dataclasses.asdict(read_run(place).record)
    (place / RUN).unlink()
    write_json(place / RUN, sealed({**record, "seeds": sorted(dice.sample(SEEDS, dice.choice([1, 2])))}))
    return set()


def _weights_as_snapshot(sound: Sound, place: Path, dice: random.Random) -> set[int]:
    seed, path = _drawn(SNAPSHOT, place, dice)
    _put(path, (sound.run / f"seed-{seed:04d}" / WEIGHTS).read_bytes())
    return {seed}


def _drawn(name: str, place: Path, dice: random.Random) -> tuple[int, Path]:
    seed = dice.choice(SEEDS)
    return seed, place / name if name == RUN else place / f"seed-{seed:04d}" / name


def _put(path: Path, content: bytes) -> None:
    """Write to a file of its own: what lies there is a link to the sound one."""
    path.unlink()
    path.write_bytes(content)


def _with_bits(content: bytes, dice: random.Random, count: int) -> bytes:
    changed = bytearray(content)
    for place in dice.sample(range(8 * len(content)), count):
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _with_header(fields: dict[str, Any], data: bytes) -> bytes:
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def _refusal(read: Callable[[], object], named: str) -> str:
    """Return the message of the one-line ``ValueError`` that reading must end with."""
    try:
        found = read()
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        message = str(error)
        if named not in message or "\n" in message:
            raise Unlike("otherwise", f"the message is {message!r}") from error
        return message
    raise Unlike("loaded", f"got {type(found).__name__}")


def _contents(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what lies below a directory; of huge files only their beginning."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else b""
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                content = file.read(2**20)
        found[str(path.relative_to(top))] = (status.st_mode, 0 if path.is_dir() else status.st_size, content)
    return found


def _without_times(found: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Leave out when directories changed: setting a file aside changes its directory."""
    return {path: (mode, 0 if os.path.isdir(path) else time) for path, (mode, time) in found.items()}


if __name__ == "__main__":
    main()
