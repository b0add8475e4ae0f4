"""What TensorBoard shows of a run, written with torch's own writer into ``checkpoints/<run>/tensorboard/``.

    recipe/              the network's graph, a grid of training images, the config and the layers as text;
                         where members take variants of a recipe in turn, recipe-1/, recipe-2/, ... of each
    seed-0007/           a member: losses, accuracy, learning rate, histograms, its hyperparameters and final scores
    vote-of-4-seeds-.../ a committee (see ``seedvote.running_vote``): losses and accuracy under the members' own names
    .vote/               sums that the running vote is taken from

Nothing here imports TensorBoard or torchvision before a logger is asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedvote.course import batches, epoch_order
from seedvote.data import evaluation_inputs, network_inputs
from seedvote.events import Histogram, Observation, Progress
from seedvote.files import refuse_way_out
from seedvote.initialization import initial_model
from seedvote.limits import flat
from seedvote.running_vote import RunningVote, VoteCounter, committee_name
from seedvote.seeding import Streams, restored_generators
from seedvote.store import Run, read_member, read_snapshot
from seedvote.types import Data, EpochRecord, Recipe, TrainedMember
from seedvote.variants import recipe_of_member

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GRID = 64  # images
CPU = torch.device("cpu")


def check_tensorboard() -> None:
    """Make sure that TensorBoard is there.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ValueError(
            "logger=tensorboard needs the package tensorboard, which is not installed: "
            "run `pip install 'seedvote[tensorboard]'`, or leave logger= out"
        )


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Keep the threads that write from printing what stopped them: the next call to their writer raises it."""
    own = threading.excepthook

    def told(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError) or type(failure.thread).__name__ != "_AsyncWriterThread":
            own(failure)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = own


class Board:
    """Writes what happens in a run for TensorBoard; a member that goes on goes on in its own log."""

    def __init__(self, run: Run, recipe: Recipe, data: Data) -> None:
        """Write into the directory of a run.

        Raises:
            ValueError: a link leads out of it.
        """
        self._directory = run.path / "tensorboard"
        refuse_way_out(self._directory, run.path)
        self._run, self._recipe, self._data = run, recipe, data
        self._votes = VoteCounter(self._directory / ".vote", run.record.seeds, data.validation.labels.numpy())
        self._writers: dict[str, SummaryWriter] = {}
        self._known: dict[str, set[int]] = {}  # epochs of votes that earlier processes wrote

    def introduce(self, seed: int, texts: Mapping[str, str]) -> str | None:
        """Write what is known before training, unless it is there already; return why there is no graph, or ``None``.

        seed: whose network and images are shown. texts: by name, shown as they are.
        """
        variants = len(self._recipe.variants)
        place = self._place(f"recipe-{seed % variants + 1}" if variants else "recipe")
        if place.exists():
            return None
        recipe, data = self._recipe.of(seed), self._data
        temporary = self._directory / f".recipe-{os.getpid()}"
        try:
            with contextlib.closing(_writer(temporary)) as writer:
                for name, text in texts.items():
                    writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), 0)
                images = image_grid(recipe, data, seed)
                if images is not None:
                    writer.add_image(f"training images of seed {seed}", images, 0)
                problem = _add_graph(writer, recipe, data, seed)
            # Another process may have been quicker: then its directory is not empty, and stays.
            with contextlib.suppress(OSError):
                temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return problem

    def epoch(self, progress: Progress) -> None:
        """Write an epoch of a member, and what the votes came to that it completes."""
        seed, record, observation = progress.seed, progress.record, progress.observation
        writer = self._member_writer(seed, record.epoch)
        _add_scalars(writer, _scalars(record), record.epoch)
        assert isinstance(observation, Observation)
        for kind, histograms in (("weights", observation.weights), ("gradients", observation.gradients)):
            for name, histogram in histograms.items():
                _add_histogram(writer, f"{kind}/{name}", histogram, record.epoch)
        writer.flush()
        for vote in self._votes.add(seed, record.epoch, observation.logits):
            self._add_vote(vote)

    def member(self, member: TrainedMember) -> None:
        """Write the final scores of a member beside what it was made with; its log ends here."""
        if member.kept_epoch:
            kept = _scalars(member.history[member.kept_epoch - 1])
            writer = self._member_writer(member.seed, len(member.history) + 1)
            own = _hyperparameters(recipe_of_member(self._run.record.recipe, member.seed))
            _add_scores(writer, {"seed": member.seed, "members": 1, **own}, kept, member.kept_epoch)
        self.leave(member.seed)

    def leave(self, seed: int) -> None:
        """Close a member's log; it may go on later."""
        writer = self._writers.pop(self._run.member_path(seed).name, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close all logs."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _member_writer(self, seed: int, epoch: int) -> SummaryWriter:
        """Return the writer of a member; from this epoch on, what an earlier process wrote no longer counts.

        What an earlier process did not come to write of the epochs before is taken from what the store knows of them.
        """
        name = self._run.member_path(seed).name
        if name not in self._writers:
            place = self._place(name)
            whole = max(_steps(place, "learning_rate"), default=0)  # of an epoch, what is written last
            # A kill may have left a part of the epoch behind the last whole one, whatever epoch follows now.
            self._writers[name] = _writer(place, min(epoch, whole + 1) if place.exists() else None)
            if epoch - 1 > whole:
                for record in self._saved_history(seed)[whole : epoch - 1]:
                    _add_scalars(self._writers[name], _scalars(record), record.epoch)
        return self._writers[name]

    def _saved_history(self, seed: int) -> tuple[EpochRecord, ...]:
        try:
            return read_snapshot(self._run.snapshot_path(seed), seed, self._run.record.recipe_hash).history
        except ValueError:  # none, or damaged
            pass
        try:  # a worker that is ahead of what it tells has finished the member, and needs no snapshot any more
            history = read_member(self._run, seed).history
            return tuple(EpochRecord(**row) for row in history)  # type: ignore[arg-type]  # read as whole numbers
        except ValueError:
            return ()

    def _place(self, name: str) -> Path:
        refuse_way_out(self._directory / name, self._run.path)
        return self._directory / name

    def _add_vote(self, vote: RunningVote) -> None:
        """Write a point of a vote's curve, unless another process did and was killed before it could say so."""
        name = committee_name(vote.seeds)
        if name not in self._writers:
            self._known[name] = _steps(self._place(name), "validation/loss")
            self._writers[name] = _writer(self._place(name))
        if vote.epoch in self._known[name]:
            return
        writer = self._writers[name]
        scores = {"validation/accuracy": vote.accuracy, "validation/loss": vote.loss}
        _add_scalars(writer, scores, vote.epoch)
        if vote.epoch == min(self._recipe.of(seed).epochs for seed in vote.seeds):
            who = {"seed": "vote", "members": len(vote.seeds), **_hyperparameters(self._run.record.recipe)}
            _add_scores(writer, who, scores, vote.epoch)
        writer.flush()


def image_grid(recipe: Recipe, data: Data, seed: int) -> Tensor | None:
    """Return the first images that a member is trained on, augmented, as a grid ``[3, height, width]`` in 0..1.

    ``None`` where the data are no images. As they are before any preprocessing, normalisation undone; what is no
    ``uint8`` is stretched to 0..1.
    """
    if data.train.inputs.ndim != 4:
        return None
    from torchvision.utils import make_grid  # takes a second, which no training without this logger shall wait

    streams = Streams(seed, recipe.vary, recipe.shared_seed)
    chosen = batches(epoch_order(streams, 1, recipe, data), recipe.batch_size)[0]
    inputs = network_inputs(data.train.inputs[chosen], data.normalization)
    with restored_generators(CPU):
        images = recipe.augment(inputs, streams.generator("augment", 1, 0))[:GRID]
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (data.normalization.mean, data.normalization.std))
    images = images * std + mean
    if data.train.inputs.dtype == torch.uint8:
        images = (images / 255).clamp(0, 1)
    else:
        images = (images - images.min()) / (images.max() - images.min()).clamp_min(1e-12)
    # Of other numbers of channels than grey and RGB have, the first is shown.
    grid: Tensor = make_grid(images if images.shape[1] in (1, 3) else images[:, :1], pad_value=1.0)
    return grid


def _writer(place: Path, purge: int | None = None) -> SummaryWriter:
    """Open a log. purge: the first step that does not count if it stands in an earlier file."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(place), purge_step=purge)


def _steps(place: Path, tag: str) -> set[int]:
    """Return the epochs that are in a log's curve already; none where there is no log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not place.exists():
        return set()
    # One of each of the other kinds: they are many, and not asked about. Zero would mean all.
    events = EventAccumulator(str(place), {"scalars": 0, "histograms": 1, "compressedHistograms": 1, "tensors": 1})
    events.Reload()
    return {event.step for event in events.Scalars(tag)} if tag in events.Tags()["scalars"] else set()


def _add_scalars(writer: SummaryWriter, scalars: Mapping[str, float], epoch: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, epoch)


def _add_scores(writer: SummaryWriter, who: dict[str, Any], scores: Mapping[str, float], epoch: int) -> None:
    """Write final scores beside hyperparameters."""
    from torch.utils.tensorboard.summary import hparams

    final = {f"final/{name}": value for name, value in scores.items() if name != "learning_rate"}
    # As SummaryWriter.add_hparams does it, but into the log that is open and not into another one beside it.
    assert writer.file_writer is not None
    for summary in hparams(who, final):
        writer.file_writer.add_summary(summary)
    _add_scalars(writer, final, epoch)


def _scalars(record: EpochRecord) -> dict[str, float]:
    return {
        "train/loss": record.train_loss,
        "validation/loss": record.validation_loss,
        "validation/accuracy": record.validation_accuracy,
        "learning_rate": record.learning_rate,
    }


def _add_histogram(writer: SummaryWriter, name: str, histogram: Histogram, epoch: int) -> None:
    # A bucket is named by its upper end; an empty one in front gives the first its lower end.
    writer.add_histogram_raw(
        name, histogram.edges[0], histogram.edges[-1], histogram.count, histogram.total, histogram.squares,
        histogram.edges, [0, *histogram.counts], epoch,
    )  # fmt: skip


def _add_graph(writer: SummaryWriter, recipe: Recipe, data: Data, seed: int) -> str | None:
    """Write the network's graph; return why there is none, or ``None``."""
    inputs = evaluation_inputs(data.train.inputs[:2], data)
    model = initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed)).eval()
    with _quiet(), restored_generators(CPU):
        try:
            writer.add_graph(model, inputs.to(next(model.parameters()).dtype))
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            return f"TensorBoard shows no graph: {type(error).__name__}: {error}".splitlines()[0]
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves that torch's tracer, which its writer uses, is deprecated and what it prints when it fails."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _hyperparameters(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted name: what is no number, truth value or text, as JSON."""
    values = flat(recipe)
    return {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in values.items()
    }
