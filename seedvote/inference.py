"""From stored members and inputs to logits ``[M, S, C]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seedvote import voting
from seedvote.data import Pieces
from seedvote.data.archive import physical_memory
from seedvote.data.checks import is_class_name
from seedvote.device import resolve_device
from seedvote.errors import listed, unknown
from seedvote.folding import folded
from seedvote.neighbors import Neighbors, features_of, fitted_neighbors
from seedvote.seeding import restored_generators
from seedvote.spreading import one_thread, spread
from seedvote.store import MemberRecord, Run, read_member, read_preprocessing, read_run, read_weights
from seedvote.targets import check_trusted, model_builder
from seedvote.types import Normalization, Preprocessing, Split
from seedvote.variants import are_sound, variants_of
from seedvote.voting import Vote

LONGEST_AXIS = 2**31


@dataclass(frozen=True)
class Ensemble:
    """The members of a run, ready to predict.

    run: where they come from. members: what is known of each, in the order of their seeds. dropped: seeds that were
    left out on request, each with the reason.
    """

    run: Run
    members: tuple[MemberRecord, ...]
    dropped: dict[int, str]
    device: torch.device
    _preprocessing: Preprocessing | None
    _networks: tuple[nn.Module, ...]  # one for each variant of the recipe
    _states: tuple[dict[str, Tensor], ...]
    fold_batchnorm: bool = False
    _reference: tuple[Split, Split] | None = None
    # The neighbours of the member that was asked last, by its seed.
    _neighbors: dict[int, Neighbors | None] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; label ``i`` is ``classes[i]``."""
        return tuple(self.run.record.classes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The members' seeds, in the order of the axis M."""
        return tuple(member.seed for member in self.members)

    @property
    def cache_suffix(self) -> str:
        """How the members answer if not as they were trained to: the end of the names of files that keep answers."""
        return ("-knn" if self._reference is not None else "") + ("-folded" if self.fold_batchnorm else "")

    def with_neighbors(self, train: Split, validation: Split) -> Ensemble:
        """Return the ensemble whose members answer by the nearest training samples in their penultimate layer.

        Their logits are then log-probabilities; ``seedvote.neighbors`` has the formula. train, validation: of the run's
        own data; each member chooses its number of neighbours on validation.
        """
        return dataclasses.replace(self, _reference=(train, validation), _neighbors={})

    def only(self, positions: Sequence[int], reason: str) -> Ensemble:
        """Return the ensemble of the members at these positions, the others noted as dropped for a reason."""
        left_out = {seed: reason for place, seed in enumerate(self.seeds) if place not in positions}
        return dataclasses.replace(
            self,
            members=tuple(self.members[place] for place in positions),
            dropped={**self.dropped, **left_out},
            _states=tuple(self._states[place] for place in positions),
        )

    def predict_logits(self, inputs: Tensor | npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return every member's logits.

        inputs: raw, as the run's data set holds them (``uint8`` images ``[S, channels, height, width]`` or
        ``float32``), not normalised.

        Returns:
            ``[M, S, C]``, ``float32``.

        Raises:
            ValueError: the inputs have another shape or kind of number than the run's data.
        """
        # What the neighbours are looked for with is made for one member at a time, as are those they are found among.
        pieces = self._pieces(inputs, keep=self._reference is None and len(self.members) > 1)
        return np.stack([self._member_logits(position, pieces) for position in range(len(self.members))])

    def member_logits(self, position: int, inputs: Tensor | npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return the logits ``[S, C]`` of the member at a position of the axis M; otherwise as ``predict_logits``.

        They are the same to the last bit as those it gives among others there.
        """
        return self._member_logits(position, self._pieces(inputs))

    @torch.inference_mode()
    def _member_logits(self, position: int, pieces: Pieces) -> npt.NDArray[np.float32]:
        network = self._network(position, pieces)
        logits = np.full((len(pieces), len(self.classes)), np.nan, np.float32)

        def answer(own: nn.Module, index: int) -> None:
            logits[pieces.place(index)] = own(pieces.inputs(index)).float().cpu().numpy()

        if self._reference is None:
            spread(network, answer, pieces.count, self.device)
            return logits
        neighbors = self._nearest(self._reference, position, network)
        if neighbors is not None:  # else the network computes what is not finite
            for index in range(pieces.count):
                features = features_of(network, [pieces.inputs(index)])
                logits[pieces.place(index)] = neighbors.log_probabilities(features)
        return logits

    def _network(self, position: int, pieces: Pieces) -> nn.Module:
        network = self._networks[self.seeds[position] % len(self._networks)]
        with one_thread():
            network.load_state_dict(self._states[position])
        network.eval()
        if not self.fold_batchnorm:
            return network
        sample = pieces.sample(2) if len(pieces) else None
        return folded(network, sample).to(memory_format=torch.channels_last)

    def _pieces(self, inputs: Tensor | npt.NDArray[np.generic], keep: bool = False) -> Pieces:
        raw = self._checked(torch.as_tensor(inputs))
        normalization = Normalization(tuple(self.run.record.mean), tuple(self.run.record.std))
        return Pieces(raw, normalization, self._preprocessing, self.device, keep)

    def _nearest(self, reference: tuple[Split, Split], position: int, network: nn.Module) -> Neighbors | None:
        """Return a member's neighbours; those of the member that was asked last are kept."""
        seed = self.seeds[position]
        if seed not in self._neighbors:
            cut = [(self._pieces(split.inputs), split.labels.numpy()) for split in reference]
            train, validation = (
                (features_of(network, map(pieces.inputs, range(pieces.count))), labels) for pieces, labels in cut
            )
            self._neighbors.clear()
            self._neighbors[seed] = fitted_neighbors(train, validation, len(self.classes))
        return self._neighbors[seed]

    def predict(self, inputs: Tensor | npt.NDArray[np.generic], vote: str = "soft", tie: str = "probability") -> Vote:
        """Let the members vote on raw inputs ``[S, ...]``; ``seedvote.voting.vote`` has the rules.

        Raises:
            ValueError: unknown rule or tie, wrong inputs, or a member whose logits are not finite.
        """
        return voting.vote(self.predict_logits(inputs), vote, tie=tie, seeds=self.seeds)

    def _checked(self, raw: Tensor) -> Tensor:
        record = self.run.record
        if list(raw.shape[1:]) != record.input_shape:
            raise ValueError(
                f"run {self.run.name!r} takes inputs of shape [S, {listed(record.input_shape)}], got {list(raw.shape)}"
            )
        dtype = f"{raw.dtype}".removeprefix("torch.")
        if dtype != record.input_dtype and (dtype == "uint8" or record.input_dtype == "uint8"):
            raise ValueError(
                f"run {self.run.name!r} takes raw {record.input_dtype} inputs as its data set holds them, got {dtype}"
            )
        return raw


def load(
    path: str | Path,
    *,
    device: str = "auto",
    on_bad_member: str = "error",
    trust: bool = False,
    seeds: Sequence[int] | None = None,
    fold_batchnorm: bool = False,
) -> Ensemble:
    """Load the members of a run.

    path: the run's directory. device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. on_bad_member: what to do
    where a member is missing, damaged or diverged: ``error``, or ``drop`` it and say so in ``Ensemble.dropped``.
    trust: load a run whose model is code outside seedvote, torch.nn and torchvision.models. seeds: these members only;
    default all that the run was ever asked for. fold_batchnorm: compute BatchNorm as a part of the layer before it.

    Raises:
        ValueError: the run or a member cannot be used; the message says which and what to do.
    """
    if on_bad_member not in voting.ON_BAD_MEMBER:
        raise ValueError(unknown("on_bad_member", on_bad_member, voting.ON_BAD_MEMBER))
    run = read_run(Path(path))
    record = run.record
    _check_record(run)
    if strays := run.unrecorded():
        raise ValueError(
            f"{run.path / 'run.json'} does not know the members of seeds {listed(strays)} that lie beside it: it is an "
            "earlier one, or they were moved here; train with these seeds to have them noted, or take them away"
        )
    if not trust:
        for variant in variants_of(record.recipe):
            check_trusted(variant["model"], run.name, "model")
    place = resolve_device(device)
    preprocessing = read_preprocessing(run)
    input_shape = preprocessing.shape if preprocessing is not None else tuple(record.input_shape)
    networks = [_network(run, variant["model"], input_shape) for variant in variants_of(record.recipe)]
    wanted = record.seeds if seeds is None else sorted(set(seeds))
    strange = [seed for seed in wanted if seed not in record.seeds]
    if strange or not wanted:
        raise ValueError(
            f"run {run.name!r} has no member with seed {listed(strange) or '(none was named)'}: "
            f"choose from its seeds {listed(record.seeds)}"
        )
    members, states, bad = _usable_members(run, networks, wanted)
    if bad and on_bad_member == "error":
        raise ValueError(_complaint(run, bad))
    if not members:
        raise ValueError(f"run {run.name!r} has no member that can be used: {next(iter(bad.values()))}")
    placed = tuple(network.to(place).to(memory_format=torch.channels_last) for network in networks)
    return Ensemble(run, tuple(members), bad, place, preprocessing, placed, tuple(states), fold_batchnorm)


def _check_record(run: Run) -> None:
    """Refuse a record whose fields have the right types, but values that no training wrote."""
    record, path = run.record, run.path / "run.json"
    shape, spec = record.input_shape, record.recipe.get("model")
    sound = {
        "recipe": isinstance(spec, dict) and "_target_" in spec and isinstance(record.recipe.get("data"), dict),
        "members": are_sound(record.recipe),
        "input_shape": len(shape) in (1, 3) and all(0 < length < LONGEST_AXIS for length in shape),
        "input_dtype": record.input_dtype in ("uint8", "float32"),
        "mean": len(record.mean) == shape[0] if shape else False,
        "std": len(record.std) == len(record.mean) and all(value > 0 for value in record.std),
        "classes": len(set(record.classes)) == len(record.classes) > 1 and all(map(is_class_name, record.classes)),
        "seeds": len(set(record.seeds)) == len(record.seeds) > 0 and all(0 <= seed < 2**63 for seed in record.seeds),
    }
    wrong = [name for name, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(f"{path} is damaged: {listed(wrong)} cannot be what a training wrote")


def _network(run: Run, spec: Mapping[str, Any], input_shape: tuple[int, ...]) -> nn.Module:
    """Build a network of a run, if it has room in memory: a stored recipe may ask for one of any size."""
    record = run.record
    with restored_generators(torch.device("cpu")):
        try:
            build = model_builder(spec, input_shape, len(record.classes))
            with suppress(NotImplementedError), torch.device("meta"):  # shapes without memory
                size = sum(tensor.nbytes for tensor in build().state_dict().values())
                if size > physical_memory():
                    raise ValueError(f"it takes {size / 2**30:.1f} GiB")
            model: nn.Module = build()
        except ValueError as error:
            raise ValueError(f"run {run.name!r} names a network that cannot be built: {error}") from error
        # Options that a stranger chose: the network's constructor raises whatever they bring about.
        except Exception as error:
            raise ValueError(
                f"run {run.name!r} names a network that cannot be built: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"run {run.name!r} names a network that is none, but a {type(model).__name__}")
    return model


def _usable_members(
    run: Run, networks: Sequence[nn.Module], seeds: Sequence[int]
) -> tuple[list[MemberRecord], list[dict[str, Tensor]], dict[int, str]]:
    members, states, bad = [], [], {}
    absent = run.missing(list(seeds))
    for seed in seeds:
        if seed in absent:
            bad[seed] = "is not trained yet"
            continue
        network = networks[seed % len(networks)]
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        try:
            member = read_member(run, seed)
            state = read_weights(run, member, expected_bytes=size)
            _check_state(state, network, run.weights_path(seed))
        except ValueError as error:
            bad[seed] = str(error)
            continue
        if member.diverged:
            bad[seed] = f"diverged: {member.diverged}"
            continue
        members.append(member)
        states.append(state)
    return members, states, bad


def _check_state(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    wanted = model.state_dict()
    if state.keys() != wanted.keys():
        odd = sorted(state.keys() ^ wanted.keys())
        raise ValueError(f"{path} does not fit the model: {listed(odd)} only in one of the two")
    for name, tensor in state.items():
        want = wanted[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise ValueError(
                f"{path} does not fit the model: {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"wanted {want.dtype} {list(want.shape)}"
            )


def _complaint(run: Run, bad: dict[int, str]) -> str:
    record = run.record
    absent = [seed for seed, reason in bad.items() if reason == "is not trained yet"]
    if len(absent) == len(bad):
        have = len(record.seeds) - len(absent)
        return (
            f"run {run.name!r} has {have} of {len(record.seeds)} members (missing seeds {listed(absent)}): "
            f"run `{record.command}` to finish it, or add on_bad_member=drop to go on without them"
        )
    reasons = "; ".join(f"seed {seed} {reason}" for seed, reason in bad.items())
    mend = f", or run `{record.command} on_damaged=retrain` to train damaged ones anew" if "damaged" in reasons else ""
    return (
        f"run {run.name!r} has members that cannot vote ({reasons}): add on_bad_member=drop to go on without them{mend}"
    )
