"""A run keeps what was fitted on its training split, and believes nothing else."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch
from forgery import rewritten
from safetensors.numpy import load_file, save, save_file
from safetensors.torch import load_file as load_weights
from safetensors.torch import save as save_weights
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from test_conf import composed

import seedvote
from seedvote import assembly
from seedvote.data import digits, prepare
from seedvote.files import read_json
from seedvote.models import mlp

TRAIN = ("run=it", "n_seeds=2", "epochs=2", "model.hidden=[16]", "engine=sequential")
WHITEN = ("preprocess=pca_whitening", "preprocess.components=20", "preprocess.epsilon=0")


@pytest.fixture
def run(call, workplace):
    """Two members on 20 whitened components."""
    outcome = call("train", *TRAIN, *WHITEN)
    assert outcome.status == 0, outcome.err
    return workplace / "checkpoints" / "it"


def test_members_answer_as_their_networks_do_on_whitened_inputs(run):
    data = prepare(digits(), name="digits", split_seed=0, validation=0.1, test=0.5, limit=None, normalize=True)
    oracle = PCA(20, whiten=True, svd_solver="full").fit(data.train.inputs.flatten(1).numpy())
    found = load_file(run / "preprocessing.safetensors")
    assert found["shape"].tolist() == [20]
    inputs = oracle.transform(data.test.inputs.flatten(1).numpy()) * np.sqrt(len(data.train) / (len(data.train) - 1))
    # The sign of a component is a convention: scikit-learn's is taken from whole rows as ours, but computed otherwise.
    scaled = found["factor"] / data.normalization.std[0]
    signs = np.sign((scaled * oracle.components_).sum(1))
    network = mlp((20,), 10, hidden=[16], dropout=0.1).eval()
    network.load_state_dict(load_weights(run / "seed-0001" / "model.safetensors"))
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs * signs).float())
    logits = seedvote.load(run).predict_logits(data.test.inputs)[1]
    np.testing.assert_allclose(logits, expected, atol=2e-4)


def test_new_inputs_need_no_training_data(call, workplace):
    draw = np.random.default_rng(0)
    pictures = load_digits().images.astype(np.uint8) * 16
    np.savez(workplace / "data.npz", inputs=pictures, labels=load_digits().target)
    np.savez(workplace / "new.npz", inputs=pictures[draw.permutation(len(pictures))[:50]])
    assert call("train", *TRAIN, "data=arrays", "data.file=data.npz", "preprocess=zca_whitening").status == 0
    (workplace / "data.npz").unlink()
    outcome = call("predict", "arrays=new.npz")
    assert outcome.status == 0 and "50 samples" in outcome.out


def test_members_that_are_added_get_the_stored_one(run, call, monkeypatch):
    before = (run / "preprocessing.safetensors").read_bytes()
    monkeypatch.setattr(assembly, "fitted", lambda fit, data: pytest.fail("fitted anew"))
    assert call("train", *TRAIN, *WHITEN, "n_seeds=3").status == 0
    assert (run / "preprocessing.safetensors").read_bytes() == before
    assert seedvote.load(run).seeds == (0, 1, 2)


def test_a_run_that_another_machine_made_meanwhile_is_not_mixed(run, call, monkeypatch):
    own = assembly.preprocessing_for

    def as_if_not_there(path, record, data):
        found = own(path.with_name("elsewhere"), record, data)
        found.factor[0] *= 1 + 1e-6
        return found

    monkeypatch.setattr(assembly, "preprocessing_for", as_if_not_there)
    outcome = call("train", *TRAIN, *WHITEN, "n_seeds=3")
    assert outcome.status == 2 and "give the same command again" in outcome.err


def test_another_preprocessing_is_another_recipe(run, call):
    outcome = call("train", *TRAIN, *WHITEN, "preprocess.epsilon=0.5")
    assert outcome.status == 2
    assert "preprocess.epsilon is 0 there and 0.5 here" in outcome.err
    outcome = call("train", *TRAIN)
    assert "preprocess._target_ is seedvote.data.preprocessing.pca_whitening there and None here" in outcome.err


def test_recipes_without_preprocessing_keep_their_hash(call, workplace):
    config = composed()
    recipe = assembly.recipe_of(config)
    assert "preprocess" not in recipe
    record = assembly.run_record(config, assembly.load_data(recipe, {}), "")
    assert assembly.run_name(record) == "digits-mlp-fb8525"
    assert call("train", *TRAIN).status == 0
    assert "preprocessing" not in read_json(workplace / "checkpoints" / "it" / "run.json")[0]
    assert not (workplace / "checkpoints" / "it" / "preprocessing.safetensors").exists()


def test_a_network_that_wants_images_refuses_components(call, workplace):
    outcome = call("train", "preprocess=pca", "model=resnet")
    assert outcome.status == 2
    assert "model resnet wants images [channels, height, width], got inputs of shape" in outcome.err
    assert not (workplace / "checkpoints").exists()


def test_verify_reads_it(run, call):
    outcome = call("verify")
    assert outcome.status == 0 and "preprocessing.safetensors is sound" in outcome.out
    (run / "preprocessing.safetensors").unlink()
    outcome = call("verify")
    assert outcome.status == 1
    assert "preprocessing.safetensors cannot be read" in outcome.err and "sound" not in outcome.err


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def linked_out(path):
    path.rename(path.parent.parent / "outside")
    path.symlink_to(path.parent.parent / "outside")


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "one bit": flipped,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": linked_out,
    "far too large": sparse,
    "a pipe": a_pipe,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_refused(kind, run, call):
    DAMAGE[kind](run / "preprocessing.safetensors")
    for command in (("predict",), ("compare",), ("train", *TRAIN, *WHITEN, "n_seeds=3")):
        outcome = call(*command)
        assert outcome.status == 2, command
        assert "preprocessing.safetensors" in outcome.err and "Traceback" not in outcome.err
    assert call("verify").status == 1
    assert not (run / "seed-0002").exists()


def forged(run, **changes):
    """Let the record vouch for other tensors, as a stranger may."""
    path = run / "preprocessing.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    rewritten(run, lambda values: values.update(preprocessing=sha256))


FORGERIES = {
    "mean too short": {"mean": np.zeros(63, np.float32)},
    "factor of another shape": {"factor": np.zeros((20, 63), np.float32)},
    "factor with three axes": {"factor": np.zeros((20, 8, 8), np.float32)},
    "factor of one number": {"factor": np.array(1, np.float32)},
    "shape that does not fit": {"shape": np.array([21])},
    "shape with an axis too many": {"shape": np.array([4, 5])},
    "negative shape": {"shape": np.array([-4, -5])},
    "no shape": {"shape": np.zeros(0, np.int64)},
    "huge shape": {"shape": np.array([2**62, 2**62])},
    "shape of floats": {"shape": np.array([20.0])},
    "a name missing": {"mean": None},
    "a name too many": {"more": np.zeros(3, np.float32)},
    "not a number": {"mean": np.full(64, np.nan, np.float32)},
    "infinite": {"factor": np.full((20, 64), np.inf, np.float32)},
    "another kind of number": {"mean": np.zeros(64)},
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_what_no_training_wrote_is_refused_though_digests_fit(kind, run):
    forged(run, **FORGERIES[kind])
    with pytest.raises(ValueError, match=r"preprocessing\.safetensors is damaged: "):
        seedvote.load(run)


def test_a_stranger_who_leaves_it_out_or_writes_no_tensors_is_refused(run):
    path = run / "preprocessing.safetensors"
    path.write_bytes(b"nothing of the kind")
    rewritten(run, lambda values: values.update(preprocessing=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(ValueError, match=r"preprocessing\.safetensors is damaged: Error while deserializing"):
        seedvote.load(run)
    path.write_bytes(save_weights({"mean": torch.zeros(64, dtype=torch.bfloat16)}))
    rewritten(run, lambda values: values.update(preprocessing=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(ValueError, match=r"preprocessing\.safetensors is damaged: 'BF16'"):
        seedvote.load(run)
    rewritten(run, lambda values: values.update(preprocessing=7))
    with pytest.raises(ValueError, match=r"preprocessing missing, unknown or of the wrong type"):
        seedvote.load(run)
    rewritten(run, lambda values: values.pop("preprocessing"))
    with pytest.raises(ValueError, match="does not fit the model"):
        seedvote.load(run)


def test_sound_forgeries_are_what_the_checks_let_through(run):
    forged(run, mean=np.ones(64, np.float32))
    assert seedvote.load(run).predict_logits(np.zeros((1, 1, 8, 8), np.uint8)).shape == (2, 1, 10)
    assert len(save(load_file(run / "preprocessing.safetensors"))) > 20 * 64 * 4


def test_variants_share_it_and_may_not_have_one_of_their_own(call, workplace):
    variants = "members=[{model.hidden:[16]},{model.hidden:[8]}]"
    assert call("train", *TRAIN[:3], "engine=sequential", *WHITEN, variants, "data.bootstrap=true").status == 0
    shapes = {
        load_weights(workplace / "checkpoints" / "it" / seed / "model.safetensors")["1.weight"].shape
        for seed in ("seed-0000", "seed-0001")
    }
    assert shapes == {(16, 20), (8, 20)}
    for head in ("softmax", "knn"):
        assert call("predict", f"head={head}", "fold_batchnorm=true").status == 0
    outcome = call("train", "members=[{preprocess:mean},{model:mlp}]")
    assert outcome.status == 2
    assert "members, entry 1 sets preprocess, which all members of a run share" in outcome.err
