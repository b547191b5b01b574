"""Every human-designed merge against values worked by hand. Two sources unless a test says otherwise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from selfdev.baselines import Value, method_source, with_lines

A = {"w": torch.tensor([[1.0, -2.0], [0.0, 4.0]]), "b": torch.tensor([10.0])}
B = {"w": torch.tensor([[3.0, 2.0], [1.0, -4.0]]), "b": torch.tensor([-4.0])}
ROOT = math.sqrt(0.5)


def run(source: str, *vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run one of our own programs in plain PyTorch."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["merge_models"](list(vectors))


def merge(name: str, *vectors: dict[str, torch.Tensor], **parameters: Value) -> dict[str, torch.Tensor]:
    return run(method_source(name, **parameters), *vectors)


def one(name: str, *tensors: Any, **parameters: Value) -> torch.Tensor:
    """Merge sources of one parameter."""
    return merge(name, *({"w": torch.tensor(tensor, dtype=torch.float32)} for tensor in tensors), **parameters)["w"]


def assert_close(found: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-6)


def fix_draws(monkeypatch: pytest.MonkeyPatch, draws: Any) -> None:
    """`torch.rand` gives these numbers (one, or one per value of `w`) whatever the generator."""

    def rand(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        values = torch.tensor(draws)
        return values if values.shape == shape else torch.full(shape, float(values.flatten()[0]))

    monkeypatch.setattr(torch, "rand", rand)


# Averages.


def test_some_sources_averaged() -> None:
    assert_close(one("subset_average", [1.0], [9.0], [5.0], MEMBERS=(0, 2)), [3.0])


# TIES.


def test_ties_trims_each_parameter() -> None:
    # kept of w: A -2, 4; B 3, -4. Sums 3, -2, 0, 0; the last is elected +, so A's 4 stays
    merged = merge("ties", A, B, DENSITY=0.5, TRIM="tensor")
    assert_close(merged["w"], [[3.0, -2.0], [0.0, 4.0]])
    assert_close(merged["b"], [10.0])


def test_ties_trims_the_whole_vector() -> None:
    # one of five values each: A keeps 10 only; B's largest magnitude is 4, twice: both tied values stay
    merged = merge("ties", A, B, DENSITY=0.2, SCALE=0.5)
    assert_close(merged["w"], [[0.0, 0.0], [0.0, -2.0]])
    assert_close(merged["b"], [5.0])


def test_ties_averages_what_agrees() -> None:
    assert_close(one("ties", [1.0, 4.0], [3.0, -1.0], [-2.0, 1.0], DENSITY=1.0), [2.0, 2.5])


def test_ties_keeps_at_least_one_value() -> None:
    assert_close(one("ties", [1.0, -3.0], [0.0, 0.0], DENSITY=0.01), [0.0, -3.0])


# DARE: values are kept where the draw is at least DROP.


def test_dare_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(monkeypatch, [[0.1, 0.9], [0.5, 0.4]])
    merged = merge("dare_linear", A, B, DROP=0.5, SCALE=0.5)
    assert_close(merged["w"], [[0.0, 0.5 * (-4 + 4)], [0.5 * (0 + 2), 0.0]])
    assert_close(merged["b"], [0.0])
    # A keeps -2 of an L1 norm of 7: factor 3.5; B keeps 2 and 1 of 10: factor 10/3
    merged = merge("dare_linear", A, B, DROP=0.5, SCALE=1.0, RESCALE="norm")
    assert_close(merged["w"], [[0.0, -7 + 20 / 3], [10 / 3, 0.0]])
    assert_close(merged["b"], [0.0])


def test_dare_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(monkeypatch, 0.9)  # all kept, times 2
    assert_close(one("dare_ties", [1.0, 2.0], [3.0, -1.0], DROP=0.5, SCALE=0.5), [4.0, 2.0])
    assert_close(one("dare_ties", [1.0, 2.0], [3.0, -1.0], DROP=0.5, SCALE=0.5, MERGE="mean"), [2.0, 2.0])
    fix_draws(monkeypatch, 0.1)
    assert_close(one("dare_ties", [1.0, 2.0], [3.0, -1.0], DROP=0.5), [0.0, 0.0])


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_draws_depend_on_seed_parameter_and_source_alone(name: str) -> None:
    ones = {"w": torch.ones(40, 50)}
    first, again, other = merge(name, ones), merge(name, ones), merge(name, ones, SEED=1)
    beside = merge(name, {"a": torch.ones(7), **ones})
    assert torch.equal(first["w"], again["w"])
    assert torch.equal(first["w"], beside["w"])
    assert not torch.equal(first["w"], other["w"])
    assert not torch.equal(first["w"], merge(name, {"v": torch.ones(40, 50)})["v"])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    merge(name, ones)
    assert torch.equal(torch.get_rng_state(), before)


def test_dare_drops_the_share_it_is_told_to() -> None:
    merged = merge("dare_linear", {"w": torch.ones(100, 100)}, DROP=0.9, SCALE=1.0)["w"]
    assert merged.unique().tolist() == pytest.approx([0.0, 10.0])
    assert (merged > 0).float().mean().item() == pytest.approx(0.1, abs=0.015)  # 5 standard deviations


# DELLA: with DENSITY 0.6 and EPSILON 0.1 the smaller value of a row of two is kept with 0.5, the larger with 0.7.


def test_della(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_draws(monkeypatch, 0.65)  # the larger value of each row stays; b's only value (0.6) goes
    merged = merge("della", A, B)
    assert_close(merged["w"], [[3 / 0.7, -2 / 0.7], [0.0, 4 / 0.7]])
    assert_close(merged["b"], [0.0])
    assert_close(merge("della_linear", A, B)["w"], [[1.5 / 0.7, -1 / 0.7], [0.0, 0.0]])
    # rows of A keep -2 and 4 of an L1 norm of 7, B's 3 and -4 of 10
    assert_close(merge("della_linear", A, B, RESCALE="norm")["w"], [[15 / 7, -7 / 6], [0.0, 14 / 6 - 20 / 7]])


# Breadcrumbs.


def test_breadcrumbs_drops_both_tails() -> None:
    values = [float(i) for i in range(1, 11)]  # 10 goes as an outlier, five remain
    expected = [0, 0, 0, 0, 2.5, 3, 3.5, 4, 4.5, 0]
    assert_close(one("breadcrumbs", values, DENSITY=0.5, GAMMA=0.1), expected)
    assert_close(one("breadcrumbs", [-v for v in values], values, DENSITY=0.5, GAMMA=0.1), [0.0] * 10)


def test_breadcrumbs_keeps_ties_and_one_value() -> None:
    assert_close(one("breadcrumbs", [1, 2, -2, 2, 3], DENSITY=0.4, GAMMA=0.2, SCALE=1.0), [0, 2, -2, 2, 0])
    assert_close(one("breadcrumbs", [7.0], SCALE=1.0), [7.0])


def test_breadcrumbs_shrinks_the_outliers_share_before_the_density() -> None:
    assert_close(one("breadcrumbs", [1, 2, 3, 4], DENSITY=0.75, GAMMA=0.5, SCALE=1.0), [1, 2, 3, 0])


def test_breadcrumbs_with_signs() -> None:
    merged = one("breadcrumbs_ties", [1, -2, 3], [2, 1, -3], DENSITY=1.0, GAMMA=0.0, SCALE=1.0)
    assert_close(merged, [3, -2, 3])


# By angle.


def test_model_stock() -> None:
    assert_close(one("model_stock", [2, 0], [1, math.sqrt(3)]), [1.0, math.sqrt(3) / 3])  # c = 0.5, t = 2/3
    assert_close(one("model_stock", [1, 0], [0, 1]), [0.0, 0.0])  # c = 0
    assert_close(one("model_stock", [1, 0], [-1, 0]), [0.0, 0.0])  # c = -1: singular
    # three at 60 degrees: c = 0.5, t = 1.5 / 2
    assert_close(one("model_stock", [1, 1, 0], [1, 0, 1], [0, 1, 1]), [0.5, 0.5, 0.5])


def test_slerp() -> None:
    assert_close(one("slerp", [2, 0], [0, 4], T=1 / 3), [2 * math.sin(math.pi / 3), 4 * math.sin(math.pi / 6)])
    assert_close(one("slerp", [1, 0], [3, 0], T=0.5), [2.0, 0.0])  # one direction: the line
    assert_close(one("slerp", [1, 0], [0, 0], T=0.25), [0.75, 0.0])
    assert_close(one("slerp", [1, 0], [9, 9], [0, 1], PAIR=(0, 2)), [ROOT, ROOT])


def test_nuslerp() -> None:
    eighth = math.pi / 8
    assert_close(one("nuslerp", [1, 0], [0, 1], WEIGHTS=(1, 3)), [math.sin(eighth), math.sin(3 * eighth)])
    merged = one("nuslerp", [[1, 0], [2, 0]], [[0, 1], [4, 0]], GROUP="row")
    assert_close(merged, [[ROOT, ROOT], [3.0, 0.0]])


def test_karcher() -> None:
    assert_close(one("karcher", [2, 0], [0, 4]), [3 * ROOT, 3 * ROOT])
    assert_close(one("karcher", [1, 0], [1, 0], [0, 1]), [math.sqrt(0.75), 0.5])  # mean of 0, 0, 90 degrees
    assert_close(one("karcher", [0, 0], [0, 2]), [0.0, 1.0])
    assert_close(one("karcher", [0, 0], [0, 0]), [0.0, 0.0])


# By position.


def test_sce() -> None:
    # variances 1, 4, 0, 0: half of the two that vary is the second, where the sum is 0 and elects +
    assert_close(one("sce", [1, 2, -1, 0], [3, -2, -1, 0], TOPK=0.5), [0, 2, 0, 0])
    # everything: energies 6 and 14, weights 0.3 and 0.7
    assert_close(one("sce", [1, 2, -1, 0], [3, -2, -1, 0], TOPK=1.0), [2.4, 2, -1, 0])


def test_ram() -> None:
    assert_close(one("ram", [1, 0, 2, 0], [3, 5, 1e-6, 0]), [2, 5, 2, 0])


def test_ram_plus() -> None:
    a = {"w": torch.tensor([1.0, 0, 2, 0]), "v": torch.ones(2)}
    b = {"w": torch.tensor([3.0, 5, 0, 0]), "v": torch.ones(2)}
    # in w each source shares one value and has one alone; with v it shares three
    assert_close(merge("ram_plus", a, b, ALPHA=2.0, COUNT="tensor")["w"], [2, 5 * 1.1, 2 * 1.1, 0])
    assert_close(merge("ram_plus", a, b, ALPHA=2.0)["w"], [2, 5 * 1.2, 2 * 1.2, 0])
    assert_close(merge("ram_plus", a, b)["w"], [2, 5 * 1.02, 2 * 1.02, 0])


def test_consensus() -> None:
    # 1 is below half of 3, 1 below half of 4; 2 and 2 both matter
    assert_close(one("consensus_ta", [1, 4, 2], [3, -1, 2]), [0, 0, 1.6])
    assert_close(one("consensus_ta", [1, 4, 2], [3, -1, 2], AGREE=1), [1.6, 1.2, 1.6])


def test_widen() -> None:
    # column norms 5, 1, 0 and 0, 1, 2: ranks 1, 0.5, 0 and 0, 0.5, 1; above their mean is one column each
    merged = one("widen", [[3, 0, 0], [4, 1, 0]], [[0, 0, 0], [0, 1, 2]])
    assert_close(merged, [[3, 0, 0], [4, 1, 2]])
    low = 1 / (1 + math.e)  # softmax of 0 and 1
    assert_close(one("widen", [1, 2], [4, 3]), [1 * low + 4, 2 + 3 * low])  # rank 0 keeps its softmax


def test_metagpt_weights_by_the_whole_norm() -> None:
    merged = merge("metagpt", A, B)  # squared norms 21 + 100 and 30 + 16
    assert_close(merged["b"], [(121 * 10 - 46 * 4) / 167])
    assert_close(merged["w"][0], [(121 * 1 + 46 * 3) / 167, (-121 * 2 + 46 * 2) / 167])


def test_magmax() -> None:
    merged = merge("magmax", A, B)
    assert_close(merged["w"], [[1.5, -1.0], [0.5, 2.0]])  # first source where equal
    assert_close(merged["b"], [5.0])


# Spectral.


def test_tsv_m() -> None:
    assert_close(one("tsv_m", [[3, 0], [0, 1]], [[0, 0], [0, 2]]), [[3, 0], [0, 2]])  # one direction each
    # directions at 0 and 45 degrees are pushed apart evenly, to -22.5 and 67.5
    merged = one("tsv_m", [[3, 0], [0, 0]], [[1, 1], [1, 1]])
    c, s = math.cos(math.pi / 8), math.sin(math.pi / 8)
    expected = [[3 * c * c + 2 * s * s, -c * s], [-c * s, 3 * s * s + 2 * c * c]]
    assert_close(merged, expected)
    assert_close(one("tsv_m", [1.0, 2.0], [3.0, 4.0]), [2.0, 3.0])  # vectors are averaged


def test_iso_c() -> None:
    assert_close(one("iso_c", [[3, 0], [0, 0]], [[0, 0], [0, 1]], SCALE=1.5), [[3, 0], [0, 3]])
    assert_close(one("iso_c", [[3, 0], [0, 0]], [[1, 0], [0, 0]]), [[4, 0], [0, 0]])  # no arbitrary direction
    assert_close(one("iso_c", [[0.0, 0.0]], [[0.0, 0.0]]), [[0.0, 0.0]])
    assert_close(one("iso_c", [1.0, 2.0], [3.0, 4.0]), [2.0, 3.0])


def test_iso_cts() -> None:
    # sum diag(10, 8, 3, 1): the first two are common, A adds direction 3 (3), B direction 4 (1); mean 22 / 4
    a, b = torch.diag(torch.tensor([5.0, 4, 3, 0])), torch.diag(torch.tensor([5.0, 4, 0, 1]))
    merged = merge("iso_cts", {"w": a}, {"w": b}, COMMON=0.5)["w"]
    torch.testing.assert_close(merged, 5.5 * torch.eye(4), rtol=1e-5, atol=1e-5)
    # three sources for two directions: each gets round(2 / 3) = 1, one is common; sum diag(18, 2, 2, 1)
    diagonals = ([6.0, 3, 0, 0], [6.0, -1, 2, 0], [6.0, 0, 0, 1])
    merged = merge("iso_cts", *({"w": torch.diag(torch.tensor(d))} for d in diagonals), COMMON=0.5)["w"]
    torch.testing.assert_close(merged, (18 + 3 + 2 + 1) / 4 * torch.eye(4), rtol=1e-5, atol=1e-5)
    assert_close(one("iso_cts", [1.0, 2.0], [3.0, 4.0]), [2.0, 3.0])


def test_knots() -> None:
    # [A B] = diag(3, 2) [e1; e4]: each block keeps its 1
    merged = one("knots", [[3, 0], [0, 0]], [[0, 0], [0, 2]], DENSITY=0.25)
    assert_close(merged, [[3, 0], [0, 2]])
    # one left direction: the rows (3, 0) / 5 and (0, 4) / 5 are merged and come back times 5
    assert_close(one("knots", [[3, 0], [0, 0]], [[0, 4], [0, 0]], DENSITY=1.0, SCALE=0.5), [[1.5, 2], [0, 0]])
    # directions that nothing lies in do not take part in the trimming: V is (2, 0, 1, 0) / sqrt 5 alone
    assert_close(one("knots", [[2, 0], [0, 0]], [[1, 0], [0, 0]], DENSITY=0.25), [[1.5, 0], [0, 0]])
    assert_close(one("knots", [1.0, 4.0], [3.0, -1.0], DENSITY=1.0), [2.0, 4.0])  # vectors: ties


def test_wudi() -> None:
    # x = 4, gradient 2 (3 + 1): Adam's first step is LR against its sign; the optimum is 2
    assert_close(one("wudi", [[1.0]], [[3.0]], STEPS=1, LR=0.1), [[3.9]])
    assert one("wudi", [[1.0]], [[3.0]], STEPS=300, LR=0.1).item() == pytest.approx(2.0, abs=0.02)
    # inputs that do not overlap: no interference, the sum stays
    assert_close(one("wudi", [[1.0, 0]], [[0, 3.0]], LR=0.1), [[1.0, 3.0]])
    assert_close(one("wudi", [1.0, 2.0], [3.0, 4.0]), [2.0, 3.0])


def test_wudi_does_the_same_side_by_side_and_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = ({n: torch.randn(3, 4, generator=generator) for n in "uvw"} for _ in range(2))
    together, alone = (merge("wudi", a, b, LR=0.01, STEPS=20, BATCH=batch) for batch in (1000, 1))
    for name in "uvw":
        torch.testing.assert_close(together[name], alone[name])


def test_pcb() -> None:
    # unit 0, 1/2, 1 and 0, 1, 1; sums 0, 2, 1
    # scores of A: 0, e^0.5 tanh 2, e^2 tanh 2; of B: 0, e^2 tanh 2, -e^2 tanh 1
    # second largest of three as the floor: A's third and B's second value remain, each alone
    assert_close(one("pcb", [0, 1, 2], [0, 1, -1], RATIO=0.5, CLIP=0.0), [0, 1, 2])
    # the smallest as the floor: scores 0, e^0.5 tanh 3, e^2 tanh 6 of A, the other way round of B
    q = math.exp(-1.5) * math.tanh(3) / math.tanh(6)
    mean = (q * 1 + 1 * 2) / (q + 1)
    assert_close(one("pcb", [0, 1, 2], [0, 2, 1], RATIO=1.0, CLIP=0.0, SCALE=2.0), [0, 2 * mean, 2 * mean])


def test_pcb_clips_outliers() -> None:
    values = [0.1 * i for i in range(1, 11)]
    merged = one("pcb", values, [2 * v for v in values], RATIO=1.0, CLIP=0.1)
    # the largest magnitude becomes the second largest: 0.9 and 1.8
    assert 0.9 <= merged[9].item() <= 1.8


# LiNeS.


def layered(*values: float) -> dict[str, torch.Tensor]:
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.w" for i in range(3)), "model.norm.weight"]
    return {name: torch.tensor([float(value)]) for name, value in zip(names, values, strict=True)}


def test_lines_grows_with_depth() -> None:
    source = with_lines(method_source("single_source"), LINES_ALPHA=0.25, LINES_BETA=0.5)
    merged = run(source, layered(1, 1, 1, 1, 1))
    assert [v.item() for v in merged.values()] == [0.25, 0.25, 0.5, 0.75, 0.75]


def test_lines_starts_where_the_average_is() -> None:
    source = with_lines(method_source("task_arithmetic", WEIGHTS=(2.0, 2.0)), LINES_BETA=0.0)
    merged = run(source, layered(1, 2, 3, 4, 5), layered(3, 2, 1, 0, -1))
    assert [v.item() for v in merged.values()] == pytest.approx([2.0] * 5)  # half of the sum, not twice
    assert run(source, layered(0, 0, 0, 0, 0), layered(0, 0, 0, 0, 0))["model.norm.weight"].item() == 0.0


def test_lines_casts_once() -> None:
    source = with_lines(method_source("task_arithmetic", WEIGHTS=(1.0, 1.0)), LINES_ALPHA=1.0, LINES_BETA=1.0)
    big, small = layered(256, 256, 256, 256, 256), layered(1, 1, 1, 1, 1)
    merged = run(source, *({n: t.bfloat16() for n, t in v.items()} for v in (big, small)))
    assert merged["model.layers.1.w"].dtype == torch.bfloat16
    assert merged["model.layers.1.w"].item() == 386.0  # 1.5 * 257 = 385.5; 1.5 * 256 would be 384
