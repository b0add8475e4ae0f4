"""`predict` and the Python door, from the outside."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from forgery import believed, rewritten
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score

import seedvote
from seedvote.data import digits, network_inputs, prepare
from seedvote.models import mlp
from seedvote.types import Normalization


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three members of a small recipe on digits."""
    import subprocess
    import sys
    from pathlib import Path

    place = tmp_path_factory.mktemp("trained")
    subprocess.run(
        [sys.executable, "-m", "seedvote.train", "run=it", "n_seeds=3", "epochs=3", "model.hidden=[16]"]
        + ["model.dropout=0"],
        cwd=place, check=True, capture_output=True,
        env={**__import__("os").environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )  # fmt: skip
    return place / "checkpoints"


@pytest.fixture
def checkpoints(trained, workplace):
    """A copy of them in an empty directory."""
    shutil.copytree(trained, workplace / "checkpoints")
    return workplace / "checkpoints"


@pytest.fixture
def data():
    return prepare(digits(), name="digits", split_seed=0, validation=0.1, test=0.5, limit=None, normalize=True)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_logits_are_the_stored_networks_own(checkpoints, data):
    ensemble = seedvote.load(checkpoints / "it")
    logits = ensemble.predict_logits(data.test.inputs)
    assert logits.shape == (3, 899, 10)
    assert logits.dtype == np.float32
    assert ensemble.classes == tuple("0123456789")
    assert ensemble.seeds == (0, 1, 2)
    for member, seed in enumerate(ensemble.seeds):
        network = mlp((1, 8, 8), 10, hidden=[16]).eval()
        network.load_state_dict(load_file(checkpoints / "it" / f"seed-{seed:04d}" / "model.safetensors"))
        with torch.no_grad():
            expected = network(network_inputs(data.test.inputs, data.normalization))
        np.testing.assert_allclose(logits[member], expected.numpy(), atol=1e-5)


def test_the_python_door_votes(checkpoints, data):
    ensemble = seedvote.load(str(checkpoints / "it"))
    probabilities = np.exp(ensemble.predict_logits(data.test.inputs).astype(float))
    probabilities /= probabilities.sum(2, keepdims=True)
    found = ensemble.predict(data.test.inputs.numpy(), vote="soft")
    assert isinstance(found, seedvote.Vote)
    np.testing.assert_allclose(found.probabilities, probabilities.mean(0), atol=1e-6)
    assert [member.seed for member in ensemble.members] == [0, 1, 2]


@pytest.mark.parametrize("rule", ["soft", "majority", "geometric", "median", "trimmed_mean", "borda", "weighted"])
def test_files_hold_what_was_printed(rule, call, checkpoints, data):
    outcome = call("predict", f"vote={rule}")
    assert outcome.status == 0, outcome.err
    rows = rows_of(checkpoints / "it" / "predictions.csv")
    assert len(rows) == 899
    targets = [str(label) for label in data.test.labels.tolist()]
    assert [row["true"] for row in rows] == targets
    scored = accuracy_score(targets, [row["predicted"] for row in rows])
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"{rule} vote")]
    assert f"{100 * scored:.2f} %" in line
    with np.load(checkpoints / "it" / "predictions.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["probabilities"].sum(1), 1)
        assert arrays["labels"].tolist() == [int(row["predicted"]) for row in rows]
        assert arrays["targets"].tolist() == data.test.labels.tolist()
        assert arrays["seeds"].tolist() == [0, 1, 2]
        tops = arrays["probabilities"].max(1)
        np.testing.assert_allclose([float(row["probability"]) for row in rows], tops, atol=1e-6)
    for row in rows:
        members = [row[f"seed_{seed}"] for seed in range(3)]
        assert int(row["votes"]) == members.count(row["predicted"])


def test_single_seeds_are_stated_with_their_spread(call, checkpoints, data):
    out = call("predict").out
    logits = seedvote.load(checkpoints / "it").predict_logits(data.test.inputs)
    scores = [100 * accuracy_score(data.test.labels, member.argmax(1)) for member in logits]
    (line,) = [line for line in out.splitlines() if line.startswith("single seeds (n = 3)")]
    values = [np.mean(scores), np.std(scores, ddof=1), min(scores), max(scores)]
    mean, spread, low, high = (f"{value:.2f}" for value in values)
    assert line.split(")")[1].split() == [mean, "%", "±", spread, low, "%", high, "%"]


def test_one_member_has_no_spread(call, checkpoints):
    call("train", "run=one", "n_seeds=1", "epochs=1", "model.hidden=[4]")
    out = call("predict", "run=one").out
    assert "nan" not in out.lower()
    (line,) = [line for line in out.splitlines() if line.startswith("single seeds (n = 1)")]
    assert line.split(")")[1].split()[2] == "-"


def test_pictures_are_predicted_as_the_run_was_trained(call, checkpoints, workplace):
    images = load_digits().images
    folder = workplace / "pictures"
    (folder / "more").mkdir(parents=True)
    for index in range(20):
        pixels = np.round(images[index] * 255 / 16).astype(np.uint8)
        mode = ("L", "RGB", "RGBA", "P")[index % 4]
        picture = Image.fromarray(pixels, "L")
        name = f"more/{index:02d}.png" if index % 2 else f"{index:02d}.png"
        picture.convert(mode).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture either")
    outcome = call("predict", "images=pictures", "output=out")
    assert outcome.status == 1
    assert "1 files were left out" in outcome.err
    assert "broken.png" in outcome.err
    rows = rows_of(workplace / "out" / "predictions-pictures.csv")
    assert len(rows) == 20
    assert "true" not in rows[0]
    tensor = torch.from_numpy(np.round(images[:20] * 255 / 16).astype(np.uint8))[:, None]
    expected = seedvote.load(checkpoints / "it").predict(tensor)
    assert [int(row["predicted"]) for row in sorted(rows, key=lambda row: row["file"][-6:])] == expected.labels.tolist()
    assert not (checkpoints / "it" / "predictions.csv").exists()


def test_arrays_are_predicted_and_scored_where_labels_are_known(call, checkpoints, workplace, data):
    inputs, labels = data.test.inputs.numpy(), data.test.labels.numpy()
    np.savez(workplace / "new.npz", inputs=inputs)
    outcome = call("predict", "arrays=new.npz")
    assert outcome.status == 0
    assert "single seeds" not in outcome.out
    np.savez(workplace / "new.npz", inputs=inputs, labels=labels)
    outcome = call("predict", "arrays=new.npz", "vote=weighted")
    assert outcome.status == 0
    table = outcome.out.split("\n\n")[1]
    assert table == call("predict", "vote=weighted").out.split("\n\n")[1]
    np.savez(workplace / "new.npz", inputs=inputs, labels=labels + 1)
    outcome = call("predict", "arrays=new.npz")
    assert outcome.status == 2
    assert "has the label 10" in outcome.err
    np.savez(workplace / "new.npz", inputs=inputs.astype(np.float32))
    assert call("predict", "arrays=new.npz").status == 2


def edit_state(checkpoints, seed, change):
    path = checkpoints / "it" / f"seed-{seed:04d}"
    state = change(load_file(path / "model.safetensors"))
    save_file(state, path / "model.safetensors")
    believed(path)


BAD = {
    "missing": (lambda place: shutil.rmtree(place), "has 2 of 3 members (missing seeds 1): run `python -m seedvote"),
    "damaged": (lambda place: (place / "model.safetensors").write_bytes(b"x"), "is damaged: its SHA-256"),
    "no record": (lambda place: (place / "member.json").write_text("{"), "is not valid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_member_is_refused_by_name_or_dropped_and_reported(kind, call, checkpoints):
    spoil, words = BAD[kind]
    spoil(checkpoints / "it" / "seed-0001")
    refused = call("predict")
    assert refused.status == 2
    assert words in refused.err
    assert "on_bad_member=drop" in refused.err
    assert len(refused.err.splitlines()) == 1
    dropped = call("predict", "on_bad_member=drop")
    assert dropped.status == 1
    assert "dropped    seed 1:" in dropped.out
    assert "members    2: seeds 0, 2" in dropped.out
    assert seedvote.load(checkpoints / "it", on_bad_member="drop").seeds == (0, 2)


def test_a_member_with_non_finite_weights_cannot_vote(call, checkpoints):
    edit_state(checkpoints, 2, lambda state: {name: tensor * float("nan") for name, tensor in state.items()})
    refused = call("predict")
    assert refused.status == 2
    assert "seeds 2" in refused.err
    dropped = call("predict", "on_bad_member=drop", "vote=weighted")
    assert dropped.status == 1
    assert "dropped    seed 2: its logits are not finite" in dropped.out
    assert "single seeds (n = 2)" in dropped.out


def test_tensors_that_do_not_fit_are_named(checkpoints):
    edit_state(checkpoints, 0, lambda state: {**state, "1.bias": torch.zeros(17)})
    with pytest.raises(ValueError, match=r"1.bias is torch.float32 \[17\], wanted torch.float32 \[16\]"):
        seedvote.load(checkpoints / "it")
    edit_state(checkpoints, 0, lambda state: {name: tensor for name, tensor in state.items() if name != "1.bias"})
    with pytest.raises(ValueError, match="1.bias only in one of the two"):
        seedvote.load(checkpoints / "it")


def forge(checkpoints, **model):
    """Write a recipe of a stranger's, hash and all."""
    rewritten(checkpoints / "it", lambda values: values["recipe"].update(model=model))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torch.nn.functional.torch.hub.load",
        "seedvote.models.math.prod",
        "seedvote.data.image_files.os.system",
        "builtins.eval",
        "subprocess.run",
    ],
)
def test_a_strangers_run_cannot_name_code_to_run(target, checkpoints, call):
    forge(checkpoints, _target_=target, hidden=[16])
    with pytest.raises(ValueError, match="names code outside seedvote, torch.nn and torchvision.models"):
        seedvote.load(checkpoints / "it")
    assert "add trust=true only if you know it" in call("predict").err
    forge(checkpoints, _target_="torch.nn.Sequential", _args_=[{"_target_": target}])
    with pytest.raises(ValueError, match="names code outside"):
        seedvote.load(checkpoints / "it")


def test_a_recipe_cannot_look_into_the_environment(checkpoints):
    forge(checkpoints, _target_="seedvote.models.mlp", hidden=["${oc.env:HOME}"])
    with pytest.raises(ValueError, match="holds the interpolation"):
        seedvote.load(checkpoints / "it")


def test_the_model_is_built_from_the_stored_recipe_not_from_todays_config(call, checkpoints):
    record = json.loads((checkpoints / "it" / "run.json").read_text())
    assert record["recipe"]["model"]["hidden"] == [16]  # the default is another
    assert call("predict").status == 0


def test_data_that_changed_since_training_is_noticed(call, workplace):
    generator = np.random.default_rng(0)
    inputs = generator.random((80, 4), np.float32)
    labels = (inputs[:, 0] > 0.5).astype(np.int64)
    np.savez(workplace / "data.npz", inputs=inputs, labels=labels)
    assert call("train", "data=arrays", "data.file=data.npz", "n_seeds=2", "epochs=2", "run=it").status == 0
    assert call("predict").status == 0
    (workplace / "data.npz").rename(workplace / "moved.npz")
    assert call("predict").status == 2
    assert call("predict", "data.file=moved.npz").status == 0
    np.savez(workplace / "data.npz", inputs=inputs + 1, labels=labels)
    changed = call("predict")
    assert changed.status == 2
    assert "the data of run 'it' is not what it was trained on" in changed.err


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 1, 8, 8), np.float32)])
def test_inputs_of_another_kind_are_refused(bad, checkpoints):
    with pytest.raises(ValueError, match="run 'it' takes"):
        seedvote.load(checkpoints / "it").predict_logits(bad)


def test_the_users_generator_is_left_alone(checkpoints):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    seedvote.load(checkpoints / "it")
    assert torch.equal(torch.rand(2), expected)


def test_normalization_is_the_runs_own(checkpoints, data):
    record = seedvote.load(checkpoints / "it").run.record
    assert Normalization(tuple(record.mean), tuple(record.std)) == data.normalization


def test_the_csv_can_be_read_whatever_the_class_names(workplace, call):
    inputs = np.random.default_rng(0).random((60, 3), np.float32)
    names = np.array(['a,"b"', "c\nd"])
    np.savez(workplace / "data.npz", inputs=inputs, labels=(inputs[:, 0] > 0.5).astype(int), classes=names)
    assert call("train", "data=arrays", "data.file=data.npz", "n_seeds=2", "epochs=1", "run=it").status == 0
    assert call("predict", "tie=abstain", "vote=majority").status == 0
    with (workplace / "checkpoints" / "it" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert {row["true"] for row in rows} == set(names)
    assert {row["predicted"] for row in rows} <= {*names, "abstained"}
