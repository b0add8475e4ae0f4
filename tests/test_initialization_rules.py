"""Rules: what they match, which wins, and how draws are composed."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from seedvote.initialization import by_rules, everywhere
from seedvote.initialization.rules import slices


class Residual(nn.Module):
    """A network with layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.norm2 = nn.BatchNorm2d(8)
        self.lstm = nn.LSTM(8, 6)
        self.fc = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(2, 2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ruled(*rules: object, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(9)
    model = Residual()
    by_rules(model, generator(seed), rules=rules)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def changed(*rules: object) -> set[str]:
    torch.manual_seed(9)
    before = dict(Residual().named_parameters())
    return {name for name, tensor in ruled(*rules).items() if not torch.equal(tensor, before[name])}


def constant(match: str, value: float, **more: object) -> dict[str, object]:
    return {"match": match, "scheme": "constant", "value": value, **more}


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("conv1.*", {"conv1.weight", "conv1.bias"}),
        ("fc.weight", {"fc.weight"}),
        ("conv?.bias", {"conv1.bias", "conv2.bias"}),
        ("Conv2d", {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}),
        ("_ConvNd", {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}),
        ("BatchNorm2d.weight", {"norm1.weight", "norm2.weight"}),
        ("norm2.weight", {"norm2.weight"}),
        ("LSTM.bias_*", {"lstm.bias_ih_l0", "lstm.bias_hh_l0"}),
        ("scale", {"scale"}),
        ("Residual", {"scale"}),
        ("[lf]*.bias*", {"lstm.bias_ih_l0", "lstm.bias_hh_l0", "fc.bias"}),
    ],
)
def test_a_rule_changes_what_it_matches_and_nothing_else(match, names):
    assert changed(constant(match, 0.7)) == names
    drawn = ruled(constant(match, 0.7))
    assert all((drawn[name] == torch.tensor(0.7)).all() for name in names)


def test_the_first_rule_that_matches_wins():
    drawn = ruled(constant("conv1.weight", 1), constant("Conv2d", 2), constant("*", 3))
    assert drawn["conv1.weight"].unique().tolist() == [1]
    assert drawn["conv1.bias"].unique().tolist() == drawn["conv2.weight"].unique().tolist() == [2]
    assert drawn["norm1.weight"].unique().tolist() == drawn["scale"].unique().tolist() == [3]


def test_add_and_mul_compose_draws_and_numbers():
    normal = {"scheme": "normal", "std": 1.0}
    uniform = {"scheme": "uniform", "a": 1.0, "b": 2.0}
    source = generator()
    first, second = torch.empty(4, 6).normal_(generator=source), torch.empty(4, 6).uniform_(1, 2, generator=source)

    def of(**spec: object) -> Tensor:
        return ruled({"match": "fc.weight", **spec})["fc.weight"]

    assert torch.equal(of(add=[normal, uniform]), first + second)
    assert torch.equal(of(mul=[normal, uniform]), first * second)
    assert torch.equal(of(add=[normal, 0.5]), first + 0.5)
    assert torch.equal(of(mul=[2, normal, uniform]), 2 * first * second)
    assert torch.equal(of(mul=[{"add": [normal, 1.0]}, uniform]), (first + 1) * second)
    own = ruled(constant("scale", 1))["fc.weight"]
    assert torch.equal(of(mul=["default", 0.1]), own * 0.1)
    both = of(add=["identity", {"scheme": "normal", "std": 1e-6}])
    assert torch.allclose(both, torch.eye(4, 6), atol=1e-4) and not torch.equal(both, torch.eye(4, 6))


def test_two_draws_of_one_scheme_are_different_draws():
    spec = {"scheme": "normal", "std": 1.0}
    difference = ruled({"match": "fc.weight", "add": [spec, {"mul": [-1, spec]}]})["fc.weight"]
    assert (difference != 0).all()


def test_parts_are_drawn_for_themselves_and_later_rules_draw_the_rest():
    drawn = ruled(
        constant("lstm.bias_ih_l0", 1, part="2/4"),
        constant("lstm.bias_ih_l0", 5, part="2:8"),
        constant("lstm.bias_*", 0),
        *({"match": "lstm.weight_hh_l0", "part": f"{gate}/4", "scheme": "orthogonal"} for gate in (1, 2, 3, 4)),
        constant("conv2.weight", 0, part=":, :, 1, 1"),
        constant("fc.weight", 4, part="-1:"),
    )
    assert drawn["lstm.bias_ih_l0"].tolist() == [0, 0, 5, 5, 5, 5] + [1] * 6 + [0] * 12
    assert not drawn["lstm.bias_hh_l0"].any()
    for gate in drawn["lstm.weight_hh_l0"].double().chunk(4):
        assert float((gate @ gate.T - torch.eye(6)).abs().max()) < 1e-5
    centre = torch.zeros(3, 3, dtype=torch.bool)
    centre[1, 1] = True
    assert not drawn["conv2.weight"][:, :, centre].any() and drawn["conv2.weight"][:, :, ~centre].all()
    own = ruled(constant("scale", 1))
    assert drawn["fc.weight"][3].tolist() == [4] * 6 and torch.equal(drawn["fc.weight"][:3], own["fc.weight"][:3])


def test_fans_of_a_part_are_the_parts_own():
    model = nn.Sequential(nn.Linear(100, 2000))
    by_rules(model, generator(), rules=[{"match": "0.weight", "part": "0:1000, 0:25", "scheme": "kaiming_normal"}])
    weight = model[0].weight.detach()
    assert float(weight[:1000, :25].var()) == pytest.approx(2 / 25, rel=0.02)
    assert float(weight[1000:].abs().max()) <= 0.1


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("1/3", [slice(0, 4)]), ("3/3", [slice(8, 12)]), ("0:5", [slice(0, 5, 1)]), (":", [slice(0, 12, 1)]),
        ("-3:", [slice(9, 12, 1)]), ("::2", [slice(0, 12, 2)]), ("1:9:3,:4", [slice(1, 9, 3), slice(0, 4, 1)]),
        ("-1, 2", [slice(11, 12, 1), slice(2, 3, 1)]),
    ],
)  # fmt: skip
def test_parts_are_read(part, wanted):
    assert list(slices(part, (12, 6))) == wanted


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("2/5", "the first axis of [12, 6] has no part 2 of 5 equal ones"),
        ("0/3", "the first axis of [12, 6] has no part 0 of 3 equal ones"),
        ("4/3", "the first axis of [12, 6] has no part 4 of 3 equal ones"),
        ("0:13", "'0:13' is empty or reaches beyond an axis of 12"),
        ("5:5", "'5:5' is empty or reaches beyond an axis of 12"),
        ("-13:", "'-13:' is empty or reaches beyond an axis of 12"),
        ("12", "'12' is empty or reaches beyond an axis of 12"),
        (":,:,:", "[12, 6] has only 2 axes"),
        ("::-1", "'::-1' is no slice: wanted one such as 2/4 or '0:16', in quotes"),
        ("first", "'first' is no slice"),
    ],
)
def test_parts_that_are_not_there_are_refused(part, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        slices(part, (12, 6))

    with pytest.raises(ValueError, match=r"^a single number has no parts$"):
        slices(part, ())
    with pytest.raises(ValueError, match=r"init.rules\[0\].part="):
        ruled(constant("scale", 1, part="9:11"))


def test_biases_are_zero_under_a_scheme_for_weights_and_follow_any_other():
    kaiming = {"match": "Conv2d", "scheme": "kaiming_normal"}
    own = ruled(constant("scale", 1))
    assert not ruled(kaiming)["conv1.bias"].any()
    assert ruled({**kaiming, "bias": 0.25})["conv1.bias"].unique().tolist() == [0.25]
    assert torch.equal(ruled({**kaiming, "bias": None})["conv1.bias"], own["conv1.bias"])
    assert ruled({"match": "fc.*", "scheme": "normal"})["fc.bias"].all()
    assert not ruled({"match": "fc.*", "scheme": "normal", "bias": 0})["fc.bias"].any()


def signs(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, size: float = 1.0) -> None:
    assert isinstance(module, nn.Linear)
    assert name == "fc.weight"
    tensor.copy_(size * (torch.rand(tensor.shape, generator=generator) - 0.5).sign())


def replaced(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(tensor)


def test_a_users_function_draws():
    import functools

    weight = ruled({"match": "fc.weight", "scheme": functools.partial(signs, size=0.5)})["fc.weight"]
    assert sorted(weight.unique().tolist()) == [-0.5, 0.5]
    assert torch.equal(ruled({"match": "fc.weight", "scheme": signs})["fc.weight"], 2 * weight)
    assert torch.equal(ruled({"match": "fc.weight", "mul": [signs, 0.5]})["fc.weight"], weight)
    assert not torch.equal(ruled({"match": "fc.weight", "scheme": signs}, seed=1)["fc.weight"], 2 * weight)


def test_a_users_function_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"init.rules\[0\]: .*replaced returned a tensor of its own|fc.weight: .*own"):
        ruled({"match": "fc.weight", "scheme": replaced})
    with pytest.raises(ValueError, match=r"init.rules\[0\]: .*dirac_ must take \(module, name, tensor, generator\)"):
        ruled({"match": "fc.weight", "scheme": nn.init.dirac_})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "init.rules must be a list of at least one rule {match: ..., scheme: ...}, got ()"),
        ([{"scheme": "normal"}], "init.rules[0] needs a match, such as '*.weight', 'conv1.*' or 'Conv2d', got"),
        ([constant("fc.*", 1, part=75)], "init.rules[0].part must be text such as 2/4 or '0:16' (in quotes"),
        (
            [constant("fc.wieght", 1)],
            "init.rules[0] matches nothing: 'fc.wieght' is not known: did you mean 'fc.weight'? there are "
            "BatchNorm2d, Conv2d, LSTM, Linear, Residual, conv1.bias, conv1.weight, ",
        ),
        (
            [constant("Conv2d", 1), constant("conv1.*", 1)],
            "init.rules[1]: earlier rules have taken all that 'conv1.*' matches: put it first or leave it out",
        ),
        (
            [{"match": "*", "scheme": "kaiming_normal"}],
            "init.rules[0] matches norm1.weight [8], which has no inputs and outputs: match weights alone, such as "
            "'Linear' or 'Conv2d', or put {match: BatchNorm2d, scheme: default} before it",
        ),
    ],
)
def test_mistakes_are_named(rules, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ruled(*rules)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ValueError, match="norml") as caught:
        ruled({"match": "a", "scheme": "norml"}, constant("fc.*", 1), {"match": "b", "scheme": "normal", "sd": 1})
    assert [line[:23] for line in str(caught.value).splitlines()] == [
        "scheme of init.rules[0]",
        "option of init.rules[2]",
    ]
    with pytest.raises(ValueError, match=r"init.rules\[0\] matches nothing.*\ninit.rules\[2\] matches nothing"):
        ruled(constant("a.*", 1), constant("fc.*", 1), constant("b.*", 1))


def test_many_names_are_listed_in_part():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    with pytest.raises(ValueError, match=r"there are 0.weight, 0.bias, .* \.\.\. \(24 in all\), of Linear$"):
        by_rules(model, generator(), rules=[constant("7.w", 1)])


def test_a_shared_parameter_is_drawn_once():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    everywhere(model, generator(), scheme="normal", std=1.0)
    assert torch.equal(model[0].weight, torch.empty(5, 5).normal_(generator=generator()))


def test_everywhere_draws_weights_and_biases_and_leaves_the_rest():
    torch.manual_seed(9)
    model = Residual()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    everywhere(model, generator(), scheme="constant", value=0.5, bias=0.25)
    for name, tensor in model.named_parameters():
        if name == "scale" or name.startswith("norm"):
            assert torch.equal(tensor, before[name])
        else:
            assert tensor.unique().tolist() == [0.25 if "bias" in name else 0.5], name
    everywhere(model, generator(), add=["default", 1.0], bias=None)
    assert model.fc.weight.unique().tolist() == [1.5] and model.fc.bias.unique().tolist() == [0.25]


def test_everywhere_refuses_a_network_without_weights():
    with pytest.raises(ValueError, match="init finds no weights in this network"):
        everywhere(nn.Sequential(nn.BatchNorm1d(3)), generator(), scheme="kaiming_normal")
