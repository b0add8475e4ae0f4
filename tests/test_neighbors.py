"""The k-nearest-neighbour head, beside scikit-learn's classifier on features taken from the network by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import seedvote
from seedvote.assembly import stored_data
from seedvote.data import network_inputs
from seedvote.inference import load
from seedvote.logits import split_logits
from seedvote.neighbors import CANDIDATES, features_of, fitted_neighbors


def smoothed(classifier, k, features):
    """scikit-learn's shares of the k neighbours with one more neighbour spread over all classes."""
    shares = classifier.set_params(n_neighbors=k).predict_proba(features)
    return (shares * k + 1 / shares.shape[1]) / (k + 1)


def clusters(count, seed, spread=1.5):
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (draw.normal(size=(count, 4)) * spread + 2 * labels[:, None]).astype(np.float32), labels


@pytest.mark.parametrize("spread", [0.3, 1.5, 6.0])
def test_probabilities_and_k_are_what_scikit_learn_gives(spread):
    train, validation, test = clusters(120, 0, spread), clusters(60, 1, spread), clusters(50, 2, spread)
    found = fitted_neighbors(train, validation, 3)
    oracle = KNeighborsClassifier(algorithm="brute").fit(*train)
    losses = [log_loss(validation[1], smoothed(oracle, k, validation[0])) for k in CANDIDATES]
    assert found.k == CANDIDATES[int(np.argmin(losses))]
    probabilities = np.exp(found.log_probabilities(test[0]))
    np.testing.assert_allclose(probabilities, smoothed(oracle, found.k, test[0]), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


def test_k_follows_validation():
    chosen = [fitted_neighbors(clusters(200, 0, spread), clusters(100, 1, spread), 3).k for spread in (0.3, 6.0)]
    assert chosen[0] != chosen[1]
    assert fitted_neighbors(clusters(6, 0), clusters(20, 1), 3).k <= 5


def test_what_is_not_finite_gives_no_answer():
    train, validation = clusters(60, 0), clusters(30, 1)
    features = clusters(5, 2)[0]
    features[3, 1] = np.inf
    logits = fitted_neighbors(train, validation, 3).log_probabilities(features)
    assert np.isnan(logits[3]).all() and np.isfinite(np.delete(logits, 3, 0)).all()
    train[0][7, 0] = np.nan
    assert fitted_neighbors(train, validation, 3) is None


def test_a_network_must_end_with_a_linear_layer():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match="head=knn wants a network that ends with a linear layer"):
        features_of(network, [torch.zeros(2, 4)])
    assert not network[0]._forward_hooks


def test_members_answer_by_their_own_features(runs):
    ensemble = load(runs / "it")
    data = stored_data(ensemble.run, {}, trust=False)
    logits = ensemble.with_neighbors(data.train, data.validation).predict_logits(data.test.inputs)
    assert logits.shape == (5, len(data.test), 10)
    network = seedvote.load(runs / "it")._networks[0]
    network.load_state_dict(ensemble._states[3])
    with torch.inference_mode():
        train, validation, test = (
            network.eval()[:-1](network_inputs(split.inputs, data.normalization)).numpy()
            for split in (data.train, data.validation, data.test)
        )
    oracle = KNeighborsClassifier(algorithm="brute").fit(train, data.train.labels.numpy())
    losses = [log_loss(data.validation.labels.numpy(), smoothed(oracle, k, validation)) for k in CANDIDATES]
    expected = smoothed(oracle, CANDIDATES[int(np.argmin(losses))], test)
    # Where two training samples are equally near, one or the other may come first.
    assert (np.abs(np.exp(logits[3]) - expected).max(1) < 1e-6).mean() > 0.99


def test_answers_are_kept_apart_and_voted_like_any(runs, call, asked):
    ensemble = load(runs / "it")
    data = stored_data(ensemble.run, {}, trust=False)
    plain = split_logits(ensemble, data.test, "test").logits
    near = ensemble.with_neighbors(data.train, data.validation)
    found = split_logits(near, data.test, "test").logits
    asked.clear()
    np.testing.assert_array_equal(split_logits(near, data.test, "test").logits, found)
    np.testing.assert_array_equal(split_logits(ensemble, data.test, "test").logits, plain)
    assert not asked
    outcome = call("predict", "run=it", "head=knn")
    assert outcome.status == 0 and not asked
    with np.load(runs / "it" / "predictions.npz") as stored:
        np.testing.assert_allclose(stored["probabilities"], np.exp(found.astype(float)).mean(0), atol=1e-6)
        right = (stored["labels"] == stored["targets"]).mean()
    assert right > 0.8
    assert near.only([1, 2], "x").predict_logits(data.test.inputs).tobytes() == found[[1, 2]].tobytes()


def test_compare_and_new_inputs_take_it_too(runs, call, workplace):
    outcome = call("compare", "run=it", "head=knn")
    assert outcome.status == 0, outcome.err
    assert (runs / "it" / "seed-0000" / "logits-test-knn.safetensors").is_file()
    assert not (runs / "it" / "seed-0000" / "logits-test.safetensors").exists()
    data = stored_data(load(runs / "it").run, {}, trust=False)
    np.savez(workplace / "new.npz", inputs=data.test.inputs[:20].numpy(), labels=data.test.labels[:20].numpy())
    for vote in ("soft", "weighted"):
        outcome = call("predict", "run=it", "head=knn", "arrays=new.npz", f"vote={vote}")
        assert outcome.status == 0, outcome.err
    assert "head" in call("predict", "run=it", "head=tree").err
    assert "head" in call("compare", "run=it", "head=tree").err
