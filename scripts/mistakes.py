"""What people mistype: values of a wrong type or out of range, malformed arguments, bad combinations."""

from __future__ import annotations

# What no key of that type takes.
WRONG_TYPE = {
    int: ["x", "1.5", "[]", "[1]", "{a: 1}", "''", "true", "1e3x", "0x", "nan", "--1", "one", "3 4"],
    float: ["x", "[]", "[0.5]", "{a: 1}", "''", "half", "0,5x", "1e", "nan"],
    bool: ["x", "[]", "{a: 1}", "''", "maybe", "1.5"],
    str: ["[]", "[a]", "{a: b}"],
    list: ["3", "x", "[x, [1]]", "[[1]]", "{a: 1}", "''", "[null]", "[{a: 1}]"],
}  # fmt: skip
# What these keys do not take, by their type or their range.
OUT_OF_RANGE = {
    "n_seeds": ["0", "-1", "1000000000000", "100000000000000000000000"],
    "first_seed": ["-1", "9223372036854775808", "1000000000000000000000000000000"],
    "shared_seed": ["-1", "9223372036854775808"],
    "split_seed": ["-1", "4294967296", "1000000000000000000000000000000"],
    "seeds": ["[]", "[-1]", "[1,1]", "[9223372036854775808]", "[0,1,-2]"],
    "epochs": ["0", "-3", "1000000000000000000000000000000"],
    "batch_size": ["0", "-64", "1000000000000000000000000000000"],
    "label_smoothing": ["1", "-0.1", "1.5", "inf", "-inf", "nan"],
    "clip_norm": ["0", "-1", "inf", "nan", "-inf"],
    "clip_value": ["0", "-1", "inf", "nan", "-inf"],
    "l1": ["-1", "inf", "nan", "-inf", "null"],
    "max_norm": ["0", "-1", "inf", "nan", "-inf"],
    "patience": ["0", "-2"],
    "frozen": ["[Liner]", "['']", "[Linear]", "[[1]]", "[{a: 1}]", "3", "x"],
    "vary": ["[weather]", "[init,init2]", "[Init]", "['']"],
    "threads": ["0", "-1", "1000000000000"],
    "device": ["gpu", "cuda:x", "CPU", "''", "cuda:", "cuda:-1", "cpu:0", "cuda:99", "tpu", "auto,"],
    "run": [
        "../x", "a/b", "''", ".hidden", "'a b'", "/tmp/x",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "-x", "a\\\\b", "ü", "'a\nb'",
    ],
    "rival": ["../x", "a/b", "''", "nowhere"],
    "runs": ["[]", "[it]", "[it,it]", "[it,../x]", "[it,nowhere]"],
    "vote": ["sotf", "''", "SOFT", "hard"],
    "tie": ["random", "''", "Lowest"],
    "on_bad_member": ["skip", "''", "Drop"],
    "level": ["0", "1", "95", "-0.5", "nan", "inf"],
    "seed": ["-1"],
    "images": ["nowhere", "/dev/null", "''"],
    "arrays": ["nowhere.npz", "/dev/null", "/", "''"],
    "checkpoints": ["/dev/null/x", "/etc/passwd", "''"],
    "output": ["/dev/null/x", "/etc/passwd", "''"],
    "data.root": [],
    "data.file": [],
    "data.validation": ["0", "1", "-0.1", "2", "nan", "inf", "null", "x", "[]", "true", "0.00001", "0.9999"],
    "data.test": ["0", "1", "-0.1", "2", "nan", "null", "x", "[0.5]", "true", "0.95"],
    "data.limit": ["0", "-1", "1.5", "x", "[]", "true"],
    "data.normalize": ["x", "2", "[]", "null"],
    "data.name": ["[]", "{a: 1}", "3", "null"],
    "model.hidden": [
        "[0]", "[-1]", "[1.5]", "[x]", "3", "x", "null", "[[1]]", "[1,null]", "{a: 1}", "[true]", "[1e9]",
    ],
    "model.dropout": ["-0.1", "1", "2", "x", "null", "[]", "nan", "true"],
    "model.norm": ["bach", "''", "3", "[]", "instance", "{a: 1}"],
    "model.activation": ["rely", "''", "3", "[]", "softmax", "{a: 1}"],
    "optimizer.lr": ["-1", "x", "null", "[]", "nan", "inf", "{a: 1}"],
    "optimizer.betas": ["[2,3]", "x", "[0.9]", "0.9", "null", "[-1,0]", "[x,y]"],
    "optimizer.weight_decay": ["-1", "x", "null", "[]", "nan"],
    "scheduler.warmup": ["2", "-0.1", "x", "null", "[]", "nan", "true"],
    "scheduler.final": ["2", "-0.1", "x", "null", "[]", "nan"],
    "engine.exact": ["x", "2", "[]", "null"],
}  # fmt: skip
# The same for the options of other choices of a group.
WITH_CHOICE = {
    "model=resnet": [
        "model.depth=9", "model.depth=x", "model.depth=8.0", "model.width=0", "model.width=x", "model.depth=-4",
        "model.depth=6000002", "model.width=null", "model.depth=[8]", "model.norm=bach", "model.activation=3",
    ],
    "model=densenet": [
        "model.depth=41", "model.depth=x", "model.depth=4", "model.growth=0", "model.growth=1.5", "model.bottleneck=x",
        "model.bottleneck=false model.depth=41", "model.norm=null model.growth=0", "model.dropout=1",
    ],
    "model=constrained_time": [
        "model.budget=0", "model.budget=x", "model.budget=-5", "model.budget=1.5", "model.budget=null", "model.depth=2",
        "model.depth=1000000", "model.kernel=2", "model.kernel=33", "model.kernel=x", "model.depth=null",
    ],
    "model=recurrent": [
        "model.cell=grue", "model.cell=3", "model.hidden=0", "model.hidden=[8]", "model.layers=0",
        "model.layers=1000000", "model.bidirectional=2", "model.dropout=1", "data=arrays data.file=vectors.npz",
    ],
    "model=torchvision": [
        "model.name=resnet81", "model.name=[]", "model.name=''", "model.name=3", "model.small_images=x",
        "model.name=vgg11", "model.name=vit_b_16",
    ],
    "model=lenet": ["model.channels=[1]", "model.channels=x", "epochs=1", "model.hidden=[0]"],
    "optimizer=sgd": [
        "optimizer.lr=-1", "optimizer.momentum=-1", "optimizer.momentum=x", "optimizer.nesterov=x",
        "optimizer.momentum=0", "optimizer.betas=[0,0]", "optimizer.weight_decay=x", "optimizer.lr=null",
    ],
    "scheduler=step": [
        "scheduler.step_size=0", "scheduler.step_size=x", "scheduler.gamma=-1", "scheduler.gamma=x",
        "scheduler.interval=month", "scheduler.interval=validation", "scheduler.interval=null", "scheduler.patience=3",
        "scheduler.gamma=[]", "~scheduler.step_size",
    ],
    "scheduler=multi_step": ["scheduler.milestones=3", "scheduler.gamma=null"],
    "scheduler=plateau": [
        "scheduler.factor=2", "scheduler.factor=x", "scheduler.interval=step", "+scheduler.mode=max",
        "+scheduler.mode=x", "scheduler.patience=x", "scheduler.min_lr=x",
    ],
    "scheduler=one_cycle": [
        "scheduler.pct_start=2", "scheduler.max_lr=x", "+scheduler.total_steps=5", "scheduler.div_factor=0",
        "optimizer._target_=torch.optim.Adagrad", "scheduler.interval=validation",
    ],
    "scheduler=cosine": ["scheduler.T_max=0", "scheduler.T_max=x", "scheduler.eta_min=x", "scheduler.eta_min=-9"],
    "scheduler=constant": ["scheduler.warmup=0.1", "scheduler.x=1", "+scheduler.warmup=1"],
    "engine=process": [
        "engine.workers=0", "engine.workers=x", "engine.workers=-1", "engine.workers=1.5", "engine.workers=[]",
    ],
    "engine=fused": ["engine.width=0", "engine.width=x", "engine.width=-1", "engine.width=1.5", "engine.width=[]"],
    "engine=sequential": ["engine.width=3", "+engine.workers=2"],
    "augment=crop": [
        "augment.crop=-1", "augment.crop=x", "augment.crop=1.5", "augment.flip=x", "augment.cutout=-1",
        "augment.rotate=x", "augment.scale=-1", "augment.shear=nan", "augment.rotate=inf", "augment.flip=3",
        "augment.crop=null", "augment.crop=[1]", "augment.scale=x", "augment.shear=x", "augment.rotate=-1",
    ],
    "augment=affine": ["augment.rotate=x", "augment.scale=-2", "augment.shear=[]", "augment.crop=true"],
    "data=image_folder": ["data.root=nowhere", "data.size=0", "epochs=1", "data.root=/dev/null", "data.root=3"],
    "data=image_folder data.root=photos": [
        "data.size=0", "data.size=x", "data.channels=2", "data.channels=x", "data.workers=0", "data.workers=x",
        "data.size=100000", "data.size=1.5", "data.cache=/dev/null/x", "data.channels=null", "data.cache=3",
        "data.workers=true", "data.cache=[]",
    ],
    "data=arrays": [
        "data.file=nowhere.npz", "epochs=1", "data.file=/dev/null", "data.file=.", "data.file=[]", "data.file=3",
    ],
    "data=mnist": [
        "data.root=nowhere data.download=false", "data.download=x data.root=nowhere",
        "data.root=3 data.download=false", "data.dataset=MINST", "data.dataset=[] data.download=false",
        "data.root=[] data.download=false",
    ],
    "data=cifar10": ["data.root=nowhere data.download=false", "data.dataset=null data.download=false"],
    "init=default": ["init.x=1", "+init.gain=2", "init._target_=nowhere", "init._target_=os", "init._target_=3"],
}  # fmt: skip
# With any key; most are nothing that Hydra's grammar knows.
MALFORMED = [
    "{key}", "={value}", "{key}==", "{key}=[", "{key}={{", "{key}=\"", "{key}=a]", "{key}=${{x}}",
    "{key}=${{oc.env:NO_SUCH_VARIABLE}}", "{key}=${{", "{key}=1,2", "{key}=range(1,3)", "{key}=glob(*)",
    "{key}=choice(1,2)", "{key}=f(x)", "{key}=sort(3,2)", "{key}=???", "~no_{key}", "+~{key}=1", "{key}+=1",
    "{key}.x=1", "{key}.0=1", "no_such_{key}=1", "+no_such_{key}=1", "{key}s_=1", "++no_such_{key}=1", "{key} =",
    "@{key}=1", "{key}@x=1", "{key}:=1", "{key}/=1", "/{key}=1", "../{key}=1", "--{key}=1", "--no-such-option",
    "{key}=\x00", "{key}=a\tb=c", "{key}=!!python/name:os.system", "{key}=${{oc.decode:'1}}",
    "{key}=${{no_such_resolver:1}}", "{key}=${{{key}}}", "", " ", "=", "[]", "{{}}", "'", ",", "\\", "-Z{key}",
]  # fmt: skip
# What is no flag of Hydra's, or not with that value.
FLAGS = [
    "--config-name=nowhere", "--config-dir=nowhere", "--config-path=nowhere", "--cfg=nothing",
    "--resolve", "--info=nothing", "-c", "--multirun hydra/launcher=nowhere", "hydra/sweeper=nowhere",
    "hydra/nothing=x", "hydra.nothing=1", "hydra/job_logging=nowhere", "--experimental-rerun=nowhere",
    "--hydra-help=x",
]  # fmt: skip
# Company for the mistakes.
VALID = {
    "train": [
        "n_seeds=1", "epochs=1", "data.limit=60", "model.hidden=[4]", "batch_size=32", "run=new", "seeds=[1]",
        "engine=sequential",
    ],
    "predict": ["run=it", "vote=majority", "tie=lowest", "device=cpu", "threads=1"],
    "compare": ["run=it", "vote=majority", "tie=lowest", "device=cpu", "threads=1"],
}  # fmt: skip
# Each right by itself, or a `_target_` that leads elsewhere.
COMBINATIONS = {
    "train": [
        "augment=crop data=arrays data.file=vectors.npz", "model=lenet",
        "model=resnet data=arrays data.file=vectors.npz", "data=arrays data.file=vectors.npz augment=affine",
        "model=mlp model=mpl", "data.test=0.6 data.validation=0.5", "model._target_=no.such.thing",
        "model._target_=os.path.join", "model._target_=3", "model._target_=null", "model._target_=''",
        "model._target_=torch.nn.Linear", "data._target_=seedvote.models.mlp", "optimizer._target_=torch.optim.SDG",
        "optimizer._target_=seedvote.models.mlp", "scheduler._target_=torch.nn.ReLU",
        "engine._target_=torch.nn.ReLU", "engine._target_=seedvote.engines.nothing", "augment._target_=os.getcwd",
        "~model", "~data", "model=null", "data=null", "optimizer=null", "model=[]", "model=3", "data=[a]",
        "model={_target_: seedvote.models.mlp, hidden: x}", "+optimizer.lrr=3", "+data.wokers=3", "+model.layers=3",
        "~data.validation", "~optimizer._target_", "~model._target_", "model._convert_=x", "+model._args_=3",
        "+model._recursive_=x", "data.validation=0.999 data.test=0.0005", "clip_norm=1 clip_value=1",
    ],
    "predict": [
        "images=photos arrays=vectors.npz", "arrays=vectors.npz", "run=nowhere", "checkpoints=nowhere", "run=no",
        "vote=weighted data.file=nowhere data.root=/dev/null run=nowhere", "arrays=broken.npz", "images=empty",
    ],
    "compare": [
        "runs=[it,other] run=it", "runs=[it,other] rival=other", "runs=[it,other] seeds=[0]", "rival=it run=it",
        "run=nowhere", "seeds=[77]", "seeds=[0,99]", "rival=nowhere", "checkpoints=nowhere", "level=0.95 level=2",
    ],
}  # fmt: skip
