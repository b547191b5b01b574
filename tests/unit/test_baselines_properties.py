"""What must hold of the human-designed merges on any tensors, exceptions named with their reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from selfdev.baselines import METHODS, Value, method_source
from selfdev.baselines.registry import read

NAMES = [row.name for row in METHODS]
SHAPES = {"embed": (6, 5), "layers.0.w": (4, 4), "layers.0.b": (4,), "layers.1.w": (7, 3), "layers.1.c": (2, 3, 2)}
Vector = dict[str, torch.Tensor]

# Parameters at which a method leaves a lone source, or equal ones, as they are.
NEUTRAL: dict[str, dict[str, Value]] = {
    "single_source": {},
    "uniform_average": {},
    "task_arithmetic": {"WEIGHTS": (1.0,)},
    "ties": {"DENSITY": 1.0},
    "dare_linear": {"DROP": 0.0, "SCALE": 1.0},
    "dare_ties": {"DROP": 0.0, "SCALE": 1.0, "MERGE": "mean"},
    "della": {"DENSITY": 1.0, "EPSILON": 0.0},
    "della_linear": {"DENSITY": 1.0, "EPSILON": 0.0},
    "breadcrumbs": {"DENSITY": 1.0, "GAMMA": 0.0, "SCALE": 1.0},
    "breadcrumbs_ties": {"DENSITY": 1.0, "GAMMA": 0.0, "SCALE": 1.0},
    "model_stock": {},
    "karcher": {},
    "sce": {"TOPK": 1.0},
    "ram": {},
    "ram_plus": {},
    "consensus_ta": {"SCALE": 1.0},
    "widen": {},
    "metagpt": {},
    "magmax": {"SCALE": 1.0},
    "tsv_m": {},
    "knots": {"DENSITY": 1.0},
    "wudi": {"STEPS": 20},
}
LONE_EXCEPTIONS = {
    "zero": "is the seed",
    "subset_average": "looks at the sources it is told to",
    "slerp": "needs two sources",
    "nuslerp": "needs two sources",
    "iso_c": "flattens the spectrum of one source too",
    "iso_cts": "flattens the spectrum of one source too",
    "pcb": "drops the values at the threshold, at least one",
}
EQUAL = {
    **{name: NEUTRAL[name] for name in NEUTRAL if name not in ("task_arithmetic", "sce")},
    "task_arithmetic": {"WEIGHTS": (0.25, 0.75)},
    "sce": {"TOPK": 1.0},
    "subset_average": {},
    "slerp": {},
    "nuslerp": {"GROUP": "row"},
}
EQUAL_EXCEPTIONS = {
    "zero": "is the seed",
    "dare_linear": "adds",
    "breadcrumbs": "adds",
    "breadcrumbs_ties": "adds",
    "consensus_ta": "adds",
    "tsv_m": "keeps half the rank of each of two",
    "widen": "gives important columns weight 1 in every source",
    "wudi": "starts from the sum and stops after STEPS",
    "iso_c": "flattens the spectrum",
    "iso_cts": "flattens the spectrum",
    "pcb": "drops",
}
ORDERED = {
    "single_source": "picks by number",
    "subset_average": "picks by number",
    "task_arithmetic": "weights by number",
    "slerp": "picks by number",
    "nuslerp": "picks by number",
    "dare_linear": "draws by number",
    "dare_ties": "draws by number",
    "della": "draws by number",
    "della_linear": "draws by number",
}
UNSCALED = {"ram": "EPSILON is absolute", "ram_plus": "EPSILON is absolute", "pcb": "tanh", "wudi": "LR is absolute"}


def run(source: str, vectors: list[Vector]) -> Vector:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["merge_models"](vectors)


def merge(name: str, vectors: list[Vector], **parameters: Value) -> Vector:
    if name == "wudi":
        parameters = {"STEPS": 20, **parameters}
    return run(method_source(name, **parameters), vectors)


def make(sources: int, seed: int = 0, scale: float = 0.02) -> list[Vector]:
    generator = torch.Generator().manual_seed(seed)
    return [{n: scale * torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in range(sources)]


def assert_equal(a: Vector, b: Vector, rtol: float = 1e-4, atol: float = 1e-7) -> None:
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def test_every_method_is_in_each_of_the_lists_below() -> None:
    assert sorted(NAMES) == sorted([*NEUTRAL, *LONE_EXCEPTIONS])
    assert set(NAMES) == {*EQUAL, *EQUAL_EXCEPTIONS}
    assert {*ORDERED, *UNSCALED} <= set(NAMES)


@pytest.mark.parametrize("name", NEUTRAL)
def test_one_source_with_weight_one_gives_that_source(name: str) -> None:
    (vector,) = make(1)
    assert_equal(merge(name, [vector], **NEUTRAL[name]), vector)


@pytest.mark.parametrize("name", [name for name in EQUAL if name not in EQUAL_EXCEPTIONS])
def test_equal_sources_give_that_source(name: str) -> None:
    (vector,) = make(1)
    assert_equal(merge(name, [vector, dict(vector)], **EQUAL[name]), vector)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ORDERED])
def test_the_order_of_sources_does_not_matter(name: str) -> None:
    a, b, c = make(3)
    assert_equal(merge(name, [a, b, c]), merge(name, [c, a, b]), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNSCALED])
def test_a_power_of_two_on_all_sources_goes_through_bit_by_bit(name: str) -> None:
    vectors = make(3)
    larger = [{n: 4.0 * t for n, t in v.items()} for v in vectors]
    expected = {n: 4.0 * t for n, t in merge(name, vectors).items()}
    spectral = name in ("tsv_m", "iso_c", "iso_cts", "knots", "model_stock", "karcher")  # LAPACK, square roots
    assert_equal(merge(name, larger), expected, rtol=1e-4 if spectral else 0.0, atol=1e-6 if spectral else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_opposite_of_all_sources_gives_the_opposite(name: str) -> None:
    vectors = make(3)
    opposite = [{n: -t for n, t in v.items()} for v in vectors]
    assert_equal(merge(name, opposite), {n: -t for n, t in merge(name, vectors).items()}, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_merged_in_float32_and_cast_once(name: str) -> None:
    low = [{n: t.bfloat16() for n, t in v.items()} for v in make(3)]
    before = [{n: t.clone() for n, t in v.items()} for v in low]
    merged = merge(name, low)
    wide = merge(name, [{n: t.float() for n, t in v.items()} for v in low])
    assert list(merged) == list(SHAPES)
    assert all(tensor.dtype == torch.bfloat16 for tensor in merged.values())
    assert all(torch.equal(merged[n], wide[n].bfloat16()) for n in SHAPES)
    for tensor in merged.values():
        tensor.fill_(7.0)
    assert all(torch.equal(v[n], b[n]) for v, b in zip(low, before, strict=True) for n in SHAPES)


@pytest.mark.parametrize("name", NAMES)
def test_zero_task_vectors_and_frozen_parameters_are_finite(name: str) -> None:
    vectors = make(3)
    for vector in vectors:
        vector["layers.0.w"].zero_()
    vectors[1] = {n: torch.zeros_like(t) for n, t in vectors[1].items()}
    merged = merge(name, vectors)
    assert all(tensor.isfinite().all() for tensor in merged.values())
    if name != "pcb":
        assert not merged["layers.0.w"].any()
    nothing = [{n: torch.zeros_like(t) for n, t in v.items()} for v in vectors]
    assert not any(tensor.any() for tensor in merge(name, nothing).values())


# The threshold of a whole vector, without a sort: of magnitudes in TIES, of signed values in PCB.


def function(name: str, source: str) -> str:
    start = source.index(f"def {name}(")
    end = source.find("\n\n\n", start)
    return source[start:end]


def test_files_share_helpers_word_for_word() -> None:
    """Files stand alone, so they repeat helpers; they must not drift apart."""
    groups = {
        "stream": {"dare_linear", "dare_ties", "della", "della_linear"},
        "polar": {"tsv_m", "iso_cts"},
        "middle": {"breadcrumbs", "breadcrumbs_ties"},
        "kth_largest": {"ties", "breadcrumbs", "breadcrumbs_ties", "sce", "pcb"},
        "keep_probabilities": {"della", "della_linear"},
    }
    for helper, names in groups.items():
        assert len({function(helper, read(name)) for name in names}) == 1, helper
    for pair in (("dare_linear", "dare_ties"), ("della", "della_linear")):
        assert len({function("drop", read(name)) for name in pair}) == 1


def helper(name: str, program: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(read(program), namespace)
    return namespace[name]


kth_largest = helper("kth_largest", "ties")


FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-40, -1e-40, 3.0e38]),  # ties, subnormals
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=4),
    st.lists(FLOATS, min_size=1, max_size=30),
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 9]),
    st.data(),
)
def test_the_threshold_is_that_of_a_sort(
    sizes: list[int], pool: list[float], seed: int, sparse: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pool_, some = torch.tensor(pool, dtype=torch.float32), torch.randn(64, generator=generator)
    every = torch.cat([pool_, some]) if len(pool) % 2 else pool_  # many ties, or few
    tensors = [every[torch.randint(len(every), (size,), generator=generator)] for size in sizes]
    k = data.draw(st.integers(1, sum(sizes)))
    event(f"sampled: {sparse > 1 and sum(sizes) > 64 * sparse}")
    for given_ in (tensors, [tensor.bfloat16() for tensor in tensors]):
        expected = torch.cat(given_).float().sort(descending=True).values[k - 1]
        assert torch.equal(kth_largest(given_, k, sparse, 7), expected)


@pytest.mark.parametrize("k", [1, 2, 50, 999, 1000])
@pytest.mark.parametrize("sampled", [-5.0, 0.0, 5.0])
def test_a_sample_that_misleads_costs_time_only(sampled: float, k: int) -> None:
    tensor = torch.linspace(-1.0, 1.0, 1000)
    tensor[::4] = sampled  # the values that the sample sees
    assert torch.equal(kth_largest([tensor], k, 4, 64), tensor.sort(descending=True).values[k - 1])


def test_a_threshold_among_ties_keeps_none_of_them() -> None:
    """Deltas of experts that changed few modules are mostly zero: ties must not be collected."""
    tensor = torch.zeros(40_000)
    tensor[::50] = torch.arange(1.0, 801.0)
    seen: list[int] = []

    def counted(parts: list[torch.Tensor]) -> torch.Tensor:
        seen.append(sum(part.numel() for part in parts))
        return cat(parts)

    cat = torch.cat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cat", counted)
        found = [kth_largest([tensor], k, 16, 64).item() for k in (1, 800, 801, 8000, 40_000)]
    assert found == [800.0, 1.0, 0.0, 0.0, 0.0]
    assert max(seen) < 5000  # the sample of 2,500 and its ends, or what lies between the bounds


def test_a_threshold_among_values_that_are_no_numbers_ends() -> None:
    with pytest.raises(ValueError, match="NaN"):
        kth_largest([torch.full((1000,), torch.nan)], 1, 2, 64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 4, 1 << 17]), st.data())
def test_chances_grow_with_the_rank_in_the_row(count: int, columns: int, part: int, data: st.DataObject) -> None:
    rows = torch.tensor(data.draw(st.lists(FLOATS, min_size=count * columns, max_size=count * columns)))
    rows = rows.reshape(count, columns)
    keep = helper("keep_probabilities", "della")(rows, part)
    place = rows.abs().argsort(dim=1, stable=True).argsort(dim=1).float()
    share = place / (columns - 1) if columns > 1 else torch.full_like(rows, 0.5)
    assert torch.equal(keep, 0.6 - 0.1 + 2.0 * 0.1 * share)
