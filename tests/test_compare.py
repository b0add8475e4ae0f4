"""`compare` from the outside: what it prints and writes, what it keeps, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import shutil
import sys

import numpy as np
import pytest
from forgery import believed
from safetensors.torch import load_file, save_file
from scipy.special import softmax

import seedvote
from seedvote.assembly import stored_data
from seedvote.comparison import Comparison
from seedvote.verdict import Verdict

FIGURES = {"spread", "committees", "reliability", "disagreement", "selective", "pictures"}


def numbers(path):
    """Read JSON as strictly as others would."""

    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def reported(runs_trained_once, tmp_path_factory):
    """The directory of a whole report, with a rival, and what was printed."""
    place = tmp_path_factory.mktemp("reported")
    shutil.copytree(runs_trained_once, place / "checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["seedvote.compare", "run=it", "rival=rival", "seeds=[0,1,2,4]"])
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        with pytest.raises(SystemExit) as exit_:
            importlib.import_module("seedvote.compare").main()
    assert exit_.value.code == 0
    return place / "checkpoints" / "it" / "report", "\n".join(lines)


@pytest.fixture
def without_pictures(monkeypatch):
    """Leave the figures and the page out, which take longest."""
    monkeypatch.setattr("seedvote.publication._write_pictures", lambda *_: None)


def test_everything_is_written(reported):
    directory, printed = reported
    names = {path.name for path in directory.iterdir()}
    images = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    assert images - {"pictures.png", "pictures.svg"} <= names
    assert names - images == {"comparison.json", "report.html"}
    assert "written    checkpoints/it/report: report.html" in printed


def test_the_terminal_shows_the_verdict_first_and_fits(reported):
    printed = reported[1]
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 110
    assert len(lines) <= 50
    found = numbers(reported[0] / "comparison.json")
    assert " ".join(found["verdict"]["headline"].split()) in " ".join(printed.split())
    assert printed.index("points") < printed.index("soft vote (primary)")
    assert "nan" not in printed.lower() and "None" not in printed
    assert "'rival'" in printed


def test_the_json_holds_every_number_under_stable_keys(reported):
    found = numbers(reported[0] / "comparison.json")
    about = {"format", "run", "data", "sample", "fingerprint", "recipe_hash", "command", "versions", "dropped",
             "verdict", "rivals"}  # fmt: skip
    assert set(found) == about | {field.name for field in dataclasses.fields(Comparison)} - {"decisions"}
    assert set(found["verdict"]) == {field.name for field in dataclasses.fields(Verdict)}
    assert found["seeds"] == [0, 1, 2, 4]
    assert found["samples"] == {"validation": 180, "test": 899}
    assert found["rivals"][0]["run"] == "rival"
    assert found["rivals"][0]["members"] == 1

    def walk(value):
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        else:
            assert not isinstance(value, float) or math.isfinite(value)

    walk(found)


def test_every_key_is_documented(reported):
    from pathlib import Path

    text = (Path(__file__).resolve().parent.parent / "docs" / "comparison.md").read_text()
    found = numbers(reported[0] / "comparison.json")
    missing = {key for key in found if f"`{key}`" not in text}
    missing |= {key for vote in found["votes"] for key in vote if f"`{key}`" not in text}
    assert not missing


def test_the_numbers_are_those_of_the_stored_members(reported):
    found = numbers(reported[0] / "comparison.json")
    ensemble = seedvote.load(reported[0].parent)
    data = stored_data(ensemble.run, {}, trust=False)
    logits = ensemble.predict_logits(data.test.inputs)[[0, 1, 2, 4]]
    targets = data.test.labels.numpy()
    accuracies = (logits.argmax(2) == targets).mean(1)
    soft = softmax(logits.astype(float), axis=2).mean(0).argmax(1) == targets
    assert found["members"]["test"]["accuracy"]["mean"] == pytest.approx(accuracies.mean())
    assert found["votes"][0]["scores"]["accuracy"] == pytest.approx(soft.mean())
    assert found["votes"][0]["gain"]["difference"] == pytest.approx(soft.mean() - accuracies.mean())
    assert found["cost"]["training_total"] == pytest.approx(
        sum(member.seconds for member in ensemble.members if member.seed != 3)
    )
    assert found["cost"]["inference_total"] > 0


def test_a_second_time_no_network_is_run(call, runs, asked, without_pictures):
    assert call("compare", "run=it").status == 0
    assert sorted(set(asked)) == [0, 1, 2, 3, 4]
    first = (runs / "it" / "report" / "comparison.json").read_bytes()
    asked.clear()
    assert call("compare", "run=it").status == 0
    assert call("predict", "run=it").status == 0
    assert call("compare", "run=it", "seeds=[1,2]", "vote=majority").status == 0
    assert not asked
    call("compare", "run=it")
    assert (runs / "it" / "report" / "comparison.json").read_bytes() == first


def test_a_changed_checkpoint_is_noticed(call, runs, asked, without_pictures):
    call("compare", "run=it")
    place = runs / "it" / "seed-0003"
    weights = place / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights)
    damaged = call("compare", "run=it")
    assert damaged.status == 2
    assert "is damaged: its SHA-256 is not the one in member.json" in damaged.err
    believed(place)
    asked.clear()
    before = numbers(runs / "it" / "report" / "comparison.json")
    assert call("compare", "run=it").status == 0
    assert set(asked) == {3}
    after = numbers(runs / "it" / "report" / "comparison.json")
    accuracy = [each["members"]["each"][3]["test"]["accuracy"] for each in (before, after)]
    assert accuracy[1] < accuracy[0]


def test_members_that_cannot_vote_are_left_out_on_request(call, runs, without_pictures):
    place = runs / "it" / "seed-0003"
    weights = place / "model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(weights).items()}, weights)
    believed(place)
    assert "seeds 3" in call("compare", "run=it").err
    outcome = call("compare", "run=it", "on_bad_member=drop")
    assert outcome.status == 1
    assert "dropped    seed 3: its logits are not finite" in outcome.out
    found = numbers(runs / "it" / "report" / "comparison.json")
    assert found["seeds"] == [0, 1, 2, 4]
    assert found["dropped"] == {"3": "its logits are not finite"}


def test_several_runs_stand_in_one_table(call, runs):
    outcome = call("compare", "runs=[it,rival,other]", "output=here", "vote=median")
    assert outcome.status == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 110
    lines = outcome.out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[start + 2 : start + 5]] == ["it", "rival", "other"]
    assert {path.name for path in (runs.parent / "here").iterdir()} == {
        "comparison.json", "report.html", "runs.png", "runs.svg"
    }  # fmt: skip
    found = numbers(runs.parent / "here" / "comparison.json")
    assert " ".join(outcome.out.split()).startswith(found["headline"])
    assert found["headline"] in (runs.parent / "here" / "report.html").read_text()
    assert [each["run"] for each in found["runs"]] == ["it", "rival", "other"]
    assert {each["plan"]["rule"] for each in found["runs"]} == {"median"}
    p_values = [each["votes"][0]["gain"]["p_value"] for each in found["runs"]]
    assert found["runs"][1]["p_holm"] is None  # one member has no vote to test
    tested = {place: p_values[place] for place in (0, 2)}
    smaller = min(tested, key=tested.get)
    assert found["runs"][smaller]["p_holm"] == pytest.approx(min(1, 2 * tested[smaller]))
    assert not (runs / "report").exists()


def test_runs_of_different_models_vote_as_one_rival(call, runs, without_pictures):
    outcome = call("compare", "run=it", "rival=[rival,other]")
    assert outcome.status == 0, outcome.err
    (rival,) = numbers(runs / "it" / "report" / "comparison.json")["rivals"]
    assert rival["run"] == "rival + other"
    assert rival["runs"] == ["rival", "other"]
    assert rival["members"] == 3
    logits = []
    for name in ("rival", "other"):
        ensemble = seedvote.load(runs / name)
        data = stored_data(ensemble.run, {}, trust=False)
        logits.append(ensemble.predict_logits(data.test.inputs))
    stacked, targets = np.concatenate(logits).astype(float), data.test.labels.numpy()
    mixed = softmax(stacked, axis=2).mean(0).argmax(1) == targets
    assert rival["vote_accuracy"] == pytest.approx(mixed.mean())
    assert rival["accuracy"]["mean"] == pytest.approx((stacked.argmax(2) == targets).mean())
    assert "'rival + other'" in outcome.out


def test_a_sample_says_so_everywhere(call, runs):
    outcome = call("compare", "run=small")
    assert outcome.status == 0
    assert outcome.out.lower().count("sample, not a result") >= 3
    found = numbers(runs / "small" / "report" / "comparison.json")
    assert found["sample"] is True
    assert found["verdict"]["headline"].startswith("Sample, not a result")
    page = (runs / "small" / "report" / "report.html").read_text()
    assert page.lower().count("sample, not a result") >= 2


WRONG = {
    "another data set": (["run=small", "rival=it"], "rival 'it' was trained and split on other data than run 'small'"),
    "itself": (["run=it", "rival=it"], "rival=it is run 'it' itself"),
    "unknown rival": (["run=it", "rival=nobody"], "run=nobody fits no run"),
    "unknown seed": (["run=it", "seeds=[0,9]"], "run 'it' has no member with seed 9"),
    "negative seed": (["run=it", "seeds=[-1]"], "seeds must be at least 0, got -1"),
    "runs on other data": (["runs=[it,small]"], "run 'small' was trained and split on other data than run 'it'"),
    "a rival of digits": (["run=it", "rival=7"], "run=7 fits no run"),
    "one of several rivals": (["run=it", "rival=[rival]"], "rival names one run, or a list of at least two"),
    "a rival twice": (["run=it", "rival=[rival,riva]"], "rival= names rival more than once"),
    "itself among rivals": (["run=it", "rival=[rival,it]"], "rival=it is run 'it' itself"),
    "a rival's path": (["run=it", "rival=[rival,../it]"], "rival must be a plain name"),
    "spelling": (["run=it", "vote=sofft"], "did you mean 'soft'?"),
    "level": (["run=it", "level=95"], "level must be above 0 and below 1, such as 0.95, got 95.0"),
    "one of runs": (["runs=[it]"], "runs names at least two runs and none twice"),
    "twice": (["runs=[it,i]"], "runs= names it more than once"),
    "both": (["run=it", "runs=[it,rival]"], "runs= cannot be combined with run=: leave one out"),
    "a path": (["run=it", "rival=../it"], "rival must be a plain name"),
    "a list": (["run=it", "seeds=3"], "seeds is a list, write seeds=[3]"),
    "tie": (["run=it", "tie=never"], "tie 'never' is not known"),
    "seed": (["run=it", "seed=-1"], "seed must be at least 0, got -1"),
    "key": (["run=it", "rivals=it"], "key 'rivals' is not known: did you mean 'rival'?"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(kind, call, runs):
    arguments, words = WRONG[kind]
    outcome = call("compare", *arguments)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert words in outcome.err
    assert not list(runs.rglob("report"))


def test_vectors_have_no_contact_sheet(call, workplace):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(160, 5)).astype(np.float32)
    np.savez(workplace / "data.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype(int))
    call("train", "data=arrays", "data.file=data.npz", "n_seeds=2", "epochs=1", "run=it")
    assert call("compare", "run=it").status == 0
    names = {path.name for path in (workplace / "checkpoints" / "it" / "report").iterdir()}
    assert "spread.svg" in names
    assert "pictures.png" not in names
