"""What a command line may say and what it gets for an answer."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CHOICES = "arrays, cifar10, cifar100, digits, fashion_mnist, image_folder, kmnist, mnist, svhn, usps"

WRONG = {
    "n_seeds=0": "n_seeds must be at least 1, got 0",
    "n_seeds=ten": "n_seeds=ten: value 'ten' of type 'str' could not be converted to Integer",
    "n_seeds=": "n_seeds=: value '' of type 'str' could not be converted to Integer",
    "n_sead=3": "key 'n_sead' is not known: did you mean 'n_seeds'?",
    "+n_sead=3": "key 'n_sead' is not known: did you mean 'n_seeds'?",
    "data.limti=3": "key 'data.limti' is not known: did you mean 'data.limit'?",
    "seeds=[3,7,3]": "seeds names 3 more than once: each seed is one member",
    "seeds=[]": "seeds is an empty list: name at least one, such as seeds=[3,7], or leave it out",
    "seeds=[-1]": "seeds must be at least 0, got -1",
    "seeds=3": "seeds=3: seeds is a list, write seeds=[3]",
    "first_seed=-1": "first_seed must be at least 0, got -1",
    "data=digts": f"data 'digts' is not known: did you mean 'digits'? there are {CHOICES}",
    "data=nonsense": f"data 'nonsense' is not known: there are {CHOICES}",
    "model=mlp,lenet": "model=mlp,lenet: several values are a sweep, for which --multirun must be added",
    "epochs": "epochs: every argument has the form KEY=VALUE; -h lists the keys",
    "vary=[init,weather]": "stream in vary 'weather' is not known: there are augment, dropout, init, order, sample",
    "epochs=0": "epochs must be at least 1, got 0",
    "batch_size=0": "batch_size must be at least 1, got 0",
    "label_smoothing=1": "label_smoothing must be at least 0 and below 1, got 1.0",
    "clip_norm=0": "clip_norm must be above 0, or null for no clipping, got 0.0",
    "clip_value=-1": "clip_value must be above 0, or null for no clipping, got -1.0",
    "clip_norm=1 clip_value=1": "clip_norm= and clip_value= cannot be combined: leave one out",
    "max_norm=0": "max_norm must be above 0, or null for no limit, got 0.0",
    "l1=-0.1": "l1 must be at least 0 and finite, got -0.1",
    "patience=0": "patience must be at least 1, or null for no early stopping, got 0",
    "device=gpu": "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'",
    "threads=0": "threads must be at least 1, or null for torch's own choice, got 0",
    "data.limit=0": "data.limit must be a whole number of at least 1, or null, got 0",
    "data.validation=1.5": "data.validation must be a fraction above 0 and below 1, got 1.5",
    "run=../elsewhere": "run must be a plain name of letters, digits, '.', '_' and '-' (a directory under "
    "checkpoints=checkpoints), got '../elsewhere'",
    "data=image_folder": "data.root has no default: add data.root=...",
    "model=lenet": "model lenet wants images of 28x28 or 32x32 pixels, got 8x8: use model=resnet or model=mlp",
    "model=resnet model.depth=9": "model.depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ... 1202), got 9",
    "model=torchvision model.name=resnet81": "model.name 'resnet81' is not known: did you mean 'resnet18'?",
    "+model.widht=3": "option of seedvote.models.mlp 'model.widht' is not known: there are activation, "
    "dropout, hidden, input_dropout, input_shape, n_classes, norm",
    "model._target_=no.such.thing": "model._target_=no.such.thing cannot be used: No module named 'no'",
    "optimizer.lr=-1": "Invalid learning rate: -1",
    "optimizer.lr=inf": "optimizer.lr must be a number that is finite and, if whole, at most 9223372036854775807, "
    "got inf",
    "optimizer.lr=fast": "the optimizer or its schedule cannot be built: TypeError: '<=' not supported "
    "between instances of 'float' and 'str'",
    "vary=[sample]": "vary=[sample] varies nothing without data.bootstrap=true: add it, or vary something else",
    "data.bootstrap=3": "data.bootstrap must be true or false, got 3",
    "vary=[{a:1}]": "vary must be a list of names, got {'a': 1} in it",
    "n_seeds=1000000000000": "n_seeds must be at most 1000000, got 1000000000000",
    "matmul=mkl": "matmul 'mkl' is not known: there are auto, torch",
    "threads=5000": "threads must be at most 4096, got 5000",
    "data.validation=null": "data.validation must be a fraction above 0 and below 1, got None",
    "data.normalize=2": "data.normalize must be true or false, got 2",
    "model.hidden=[0]": "model.hidden must be a list of whole numbers of at least 1, such as [64,32], got [0]",
    "model.dropout=x": "model.dropout must be float, got 'x'",
    "augment=crop augment.crop=-1": "augment.crop must be at least 0, got -1",
    "engine.exact=maybe": "engine.exact must be bool, got 'maybe'",
    "~engine.exact engine._target_=torch.nn.ReLU": "engine._target_=torch.nn.ReLU is no engine: choose "
    "one of those that -h lists",
    "data._target_=seedvote.models.mlp": "seedvote.models.mlp needs the option input_shape: add data.input_shape=...",
    "checkpoints=/dev/null/x": "checkpoints=/dev/null/x cannot be a directory: /dev/null is something else",
    "--nonsense": "unrecognized arguments: --nonsense; -h lists the keys, --hydra-help the flags",
    "model=3": "model=3: Config group override must be a string or a list. Got int",
    "scheduler=step scheduler.interval=month": "scheduler.interval 'month' is not known: there are epoch, step, "
    "validation",
    "scheduler=step scheduler.gamma=-1": "the schedule leads to a learning rate of -0.003 when stepped 10 times",
    "scheduler=step scheduler.step_size=0": "the schedule cannot be stepped: ZeroDivisionError: integer modulo by zero",
    "scheduler=one_cycle +scheduler.total_steps=5": "scheduler.total_steps follows from epochs, batch_size and the "
    "data: leave it out",
    "scheduler=plateau +scheduler.mode=max": "scheduler.mode must be min for ReduceLROnPlateau: the validation loss "
    "is better when it is lower",
    "scheduler.warmup=2": "scheduler.warmup must be from 0 to 1, got 2",
}  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_command_line_gets_one_sentence_and_writes_nothing(arguments, call, workplace):
    outcome = call("train", *arguments.split(" "))
    assert outcome.err == f"error: {WRONG[arguments]}\n"
    assert outcome.out == ""
    assert outcome.status == 2
    assert list(workplace.iterdir()) == []


def test_all_mistakes_are_reported_at_once(call, workplace):
    outcome = call("train", "model.hidden=[3]", "n_seeds=0", "model=mpl", "epochs=x", "epocs=1", "data.limit=-3")
    assert outcome.err.splitlines() == [
        "error: 5 mistakes",
        "  model 'mpl' is not known: did you mean 'mlp'? there are constrained_time, densenet, lenet, "
        "mlp, recurrent, resnet, torchvision",
        "  epochs=x: value 'x' of type 'str' could not be converted to Integer",
        "  key 'epocs' is not known: did you mean 'epochs'?",
        "  n_seeds must be at least 1, got 0",
        "  data.limit must be a whole number of at least 1, or null, got -3",
    ]
    assert outcome.status == 2
    assert list(workplace.iterdir()) == []


def test_a_device_that_is_not_there_is_refused(call, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    outcome = call("train", "device=cuda")
    assert outcome.err == (
        "error: device=cuda is not there: this machine has none that torch can use; use device=auto or device=cpu\n"
    )


def npz(workplace, **arrays):
    np.savez(workplace / "data.npz", **arrays)
    return ["data=arrays", "data.file=data.npz"]


def test_arrays_that_cannot_be_used_are_refused(call, workplace):
    inputs, labels = np.random.default_rng(0).random((40, 5), np.float32), np.arange(40) % 2
    broken = inputs.copy()
    broken[3, 2] = np.nan
    two = np.array(["no", "yes"])
    for arrays, words in (
        ({"images": inputs, "labels": labels}, ["there are: images, labels", "'inputs'"]),
        ({"inputs": broken, "labels": labels}, ["NaN", "1 of 40 samples"]),
        ({"inputs": inputs, "labels": labels - 1, "classes": two}, ["label -1"]),
        ({"inputs": inputs, "labels": labels + 1, "classes": two}, ["label 2"]),
        ({"inputs": inputs, "labels": labels[1:]}, ["40", "39"]),
    ):
        outcome = call("train", *npz(workplace, **arrays))
        assert outcome.status == 2
        assert len(outcome.err.splitlines()) == 1
        for word in words:
            assert word in outcome.err
    assert not (workplace / "checkpoints").exists()


def test_an_empty_class_folder_is_refused(call, workplace):
    for name in ("cat", "dog"):
        (workplace / "photos" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(workplace / "photos" / "cat" / "1.png")
    outcome = call("train", "data=image_folder", "data.root=photos", f"data.cache={workplace / 'cache'}")
    assert outcome.status == 2
    assert "dog" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (workplace / "checkpoints").exists()


QUICK = ("data.limit=100", "epochs=2", "model.hidden=[16]")


def test_a_run_of_another_recipe_is_not_mixed_in(call, workplace):
    assert call("train", *QUICK, "n_seeds=1", "run=mine").status == 0
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    outcome = call("train", "data.limit=100", "epochs=3", "model.hidden=[16]", "run=mine")
    assert outcome.status == 2
    assert outcome.err == (
        "error: run 'mine' in checkpoints was made with another recipe (epochs is 2 there and 3 here): choose another "
        "run=, or leave run= out to have one named after the recipe\n"
    )
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


def test_prediction_without_a_run_says_what_to_do(call, workplace):
    outcome = call("predict")
    assert outcome.status == 2
    assert outcome.err == (
        f"error: no run under {workplace / 'checkpoints'}: run `python -m seedvote.train` first, or name the "
        "directory with checkpoints=\n"
    )
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("vote=sotf", "vote 'sotf' is not known: did you mean 'soft'? there are borda, geometric, majority, median, "
                      "soft, trimmed_mean, weighted"),
        ("tie=random", "tie 'random' is not known: there are abstain, lowest, probability"),
        ("on_bad_member=skip", "on_bad_member 'skip' is not known: there are drop, error"),
        ("images=a arrays=b", "images= and arrays= cannot be predicted in one go: give one of them"),
        ("vot=soft", "key 'vot' is not known: did you mean 'vote'? there are arrays, checkpoints, data, data.file, "
                     "data.root, device, fold_batchnorm, head, images, matmul, on_bad_member, output, run, threads, "
                     "tie, trust, vote"),
    ],
)  # fmt: skip
def test_a_wrong_prediction_gets_one_sentence(arguments, sentence, call, workplace):
    outcome = call("predict", *arguments.split(" "))
    assert outcome.err == f"error: {sentence}\n"
    assert outcome.status == 2
    assert list(workplace.iterdir()) == []


def test_the_whole_path_without_a_terminal(process, workplace):
    first = process("seedvote.train", *QUICK, "n_seeds=2")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "\r" not in first.stdout
    assert first.stdout.count("sample, not a result") == 2
    (run,) = (workplace / "checkpoints").iterdir()
    assert f"next: python -m seedvote.predict run={run.name}\n" in first.stdout

    second = process("seedvote.predict")
    assert second.returncode == 0, second.stderr
    assert second.stderr == ""
    assert "single seeds (n = 2)" in second.stdout
    assert "soft vote" in second.stdout
    assert "majority vote" in second.stdout
    assert "sample, not a result" in second.stdout
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 100
    assert list(rows[0]) == ["index", "true", "predicted", "probability", "votes", "entropy", "seed_0", "seed_1"]


def test_names_that_a_terminal_cannot_show_are_escaped(process, workplace, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    place = "checkpoints='café'"
    trained = process("seedvote.train", *QUICK, "n_seeds=1", "run=it", place)
    assert trained.returncode == 0, trained.stderr
    assert "caf\\xe9/it" in trained.stdout
    assert process("seedvote.predict", place).returncode == 0


def test_help_is_readable_and_needs_no_torch(workplace):
    code = (
        "import sys, runpy; sys.argv = ['seedvote.train', '-h']\n"
        "try: runpy.run_module('seedvote.train', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("usage: python -m seedvote.train")
    assert max(len(line) for line in found.stdout.splitlines()) <= 110


@pytest.mark.parametrize("name", ["train", "predict", "compare", "verify"])
def test_help_names_every_key_and_choice(name, call):
    import dataclasses

    from seedvote import config

    text = call(name, "-h").out
    schema = getattr(config, f"{name.title()}Config")
    hidden = {
        "shared_seed",
        "split_seed",
        "label_smoothing",
        "clip_norm",
        "clip_value",
        "l1",
        "max_norm",
        "decay_all",
        "patience",
        "threads",
        "matmul",
        "trust",
    }
    for field in dataclasses.fields(schema):
        assert field.name in text or field.name in hidden, field.name
    if name == "train":
        for group in (
            "data",
            "preprocess",
            "model",
            "augment",
            "optimizer",
            "scheduler",
            "init",
            "engine",
            "experiment",
        ):
            # A long list goes on in the next line, under its first choice.
            (choices,) = re.findall(rf"^ +{group} +(.*(?:\n {{17}}\S.*)*)", text, re.MULTILINE)
            listed = set(choices.split())
            assert listed == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group


def test_a_sweep_trains_each_recipe_in_its_own_run(call, workplace):
    outcome = call("train", "--multirun", *QUICK[:1], "epochs=1,2", "n_seeds=1", "model.hidden=[8]")
    assert outcome.status == 0, outcome.err
    runs = [path for path in (workplace / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert len(runs) == 2
    assert all((run / "seed-0000" / "member.json").is_file() for run in runs)


def test_a_file_of_the_users_that_ours_hides_is_named(call, workplace):
    (workplace / "conf" / "model").mkdir(parents=True)
    (workplace / "conf" / "model" / "mlp.yaml").write_text("_target_: elsewhere.net\n")
    (workplace / "conf" / "model" / "mine.yaml").write_text("_target_: seedvote.models.mlp\nhidden: [5]\n")
    outcome = call("train", "--config-dir", "conf", "model=mine", "data.limit=50", "epochs=1", "n_seeds=1")
    assert outcome.status == 0
    assert outcome.err == "warning: conf/model/mlp.yaml is not read: seedvote has a model/mlp.yaml; rename yours\n"
