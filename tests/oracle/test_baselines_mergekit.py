"""Our human-designed merges against mergekit 0.1.5's, where it has them, in memory.

mergekit is optional (`pip install --no-deps "mergekit>=0.1.5,<0.2" immutables`): without it these tests are skipped.
It merges weights, we merge task vectors: it gets a seed and seed + task vector in float64, so that its differences are
exact far beyond our float32. `DIFFERENCES` names where the two do not agree, each with a test that shows it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfdev.baselines import Value, method_source

merge_methods = pytest.importorskip("mergekit.merge_methods", reason="mergekit is not installed")
merge_state_dicts = pytest.importorskip("mergekit.merge_methods.api").merge_state_dicts

Vector = dict[str, torch.Tensor]
SHAPES = {"embed": (12, 10), "w": (9, 9), "b": (9,), "long": (3, 40)}
MODELS = ("a", "b", "c")

DIFFERENCES = {
    "ties: whole vector": "the paper trims the whole vector, mergekit each tensor; TRIM has both",
    "ties: default density": "mergekit trims nothing unless density is given; our default is the paper's 0.2",
    "ties: equal magnitudes": "values tied at the threshold are all kept; mergekit keeps an exact number of them",
    "breadcrumbs: small tensors": "one value always stays; mergekit rounds down to none",
    "dare: rescaling": "1 / (1 - p) as in the paper; mergekit restores the L1 norm; RESCALE has both",
    "dare, della: draws": "from a generator seeded by parameter name and source, not the global one",
    "della: rows of one value": "kept with probability DENSITY; mergekit divides 0 by 0",
    "slerp: a zero tensor": "a line, as it has no direction; mergekit takes it for orthogonal",
    "karcher: tiny task vectors": "only zero tensors have no direction; mergekit drops all below tol",
    "sce: tiny task vectors": "weights by energy at any size; mergekit's are equal below a total of 1e-6",
    "model_stock: two models": "mergekit wants two besides the seed; one source is itself here",
}


def task_vectors(sources: int = 3, scale: float = 1.0, seed: int = 3) -> list[Vector]:
    generator = torch.Generator().manual_seed(seed)
    return [{n: scale * torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in range(sources)]


def ours(name: str, vectors: list[Vector], **parameters: Value) -> Vector:
    namespace: dict[str, Any] = {}
    exec(method_source(name, **parameters), namespace)
    return namespace["merge_models"](vectors)


def theirs(name: str, vectors: list[Vector], **parameters: Any) -> Vector:
    """mergekit's merge around a random seed model, as a task vector."""
    generator = torch.Generator().manual_seed(11)
    seed = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in vectors[0].items()}
    models = {"seed": seed}
    models |= {
        model: {n: seed[n] + t.double() for n, t in vector.items()}
        for model, vector in zip(MODELS, vectors, strict=False)
    }
    merged = merge_state_dicts(models, name, base="seed", parameters=parameters)
    return {n: merged[n] - seed[n] for n in seed}


def theirs_of_weights(name: str, vectors: list[Vector], base: str | None = None, **parameters: Any) -> Vector:
    """mergekit's merge of the task vectors themselves, for methods that turn weights around zero."""
    models = {m: {n: t.double() for n, t in v.items()} for m, v in zip(MODELS, vectors, strict=False)}
    merged: Vector = merge_state_dicts(models, name, base=base, parameters=parameters)
    return merged


def assert_close(found: Vector, expected: Vector) -> None:
    assert list(found) == list(expected)
    for name in found:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=2e-5, atol=2e-6)


def differ(found: Vector, expected: Vector) -> bool:
    return any(not torch.allclose(found[n].double(), expected[n].double(), rtol=1e-3, atol=1e-4) for n in found)


# Agreement.


def test_uniform_average_and_task_arithmetic() -> None:
    vectors = task_vectors()
    assert_close(ours("uniform_average", vectors), theirs_of_weights("linear", vectors, weight=1.0))
    found = ours("task_arithmetic", vectors, WEIGHTS=(0.2, 0.6, 0.4))
    assert_close(found, theirs("task_arithmetic", vectors, weight={"a": 0.2, "b": 0.6, "c": 0.4}))


@pytest.mark.parametrize("density", [0.1, 0.2, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_ties(density: float, scale: float) -> None:
    vectors = task_vectors()
    found = ours("ties", vectors, DENSITY=density, SCALE=scale, TRIM="tensor")
    assert_close(found, theirs("ties", vectors, density=density, weight=1.0, **{"lambda": scale}))


@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.01), (0.5, 0.1), (0.3, 0.2), (0.9, 0.3)])
@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs(name: str, density: float, gamma: float) -> None:
    vectors = task_vectors()
    found = ours(name, vectors, DENSITY=density, GAMMA=gamma, SCALE=0.5)
    assert_close(found, theirs(name, vectors, density=density, gamma=gamma, weight=0.5))


class Draws:
    """Gives mergekit the masks that our programs draw: theirs asks tensor by tensor, source by source, as ours does."""

    def __init__(self, vectors: list[Vector], rows: bool) -> None:
        namespace: dict[str, Any] = {}
        exec(method_source("dare_linear"), namespace)
        generator, self.made = torch.Generator(), []
        for name, tensor in vectors[0].items():
            for source in range(len(vectors)):
                generator.manual_seed(namespace["stream"](name, source))
                shape = tensor.reshape(1, -1).shape if rows and tensor.dim() == 1 else tensor.shape
                self.made.append(torch.rand(shape, generator=generator))

    def bernoulli(self, keep: torch.Tensor) -> torch.Tensor:
        draw = self.made.pop(0)
        assert draw.shape == keep.shape
        return (draw < keep).to(keep.dtype)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = task_vectors()
    # ours keeps where the draw is at least DROP; at 0.5 that is the complement of theirs
    found = ours(name, vectors, DROP=0.5, SCALE=0.4, RESCALE="norm")
    draws = Draws(vectors, rows=False)
    draws.made = [1.0 - draw for draw in draws.made]
    monkeypatch.setattr(torch, "bernoulli", draws.bernoulli)
    assert_close(found, theirs(name, vectors, density=0.5, weight=0.4))
    assert not draws.made


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = task_vectors()
    found = ours(name, vectors, DENSITY=0.6, EPSILON=0.1, SCALE=0.9, RESCALE="norm")
    draws = Draws(vectors, rows=True)
    monkeypatch.setattr(torch, "bernoulli", draws.bernoulli)
    expected = theirs(name, vectors, density=0.6, epsilon=0.1, weight=1 / 3, **{"lambda": 0.9})
    assert_close(found, expected)
    assert not draws.made


def test_model_stock() -> None:
    for sources in (2, 3):
        vectors = task_vectors(sources)
        for vector in vectors:  # not orthogonal
            for name, tensor in vector.items():
                tensor += 0.7 * vectors[0][name]
        assert_close(ours("model_stock", vectors), theirs("model_stock", vectors))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(t: float) -> None:
    vectors = task_vectors(2)
    vectors[1]["b"] = 2.0 * vectors[0]["b"]  # collinear
    assert_close(ours("slerp", vectors, T=t), theirs_of_weights("slerp", vectors, base="a", t=t))


@pytest.mark.parametrize("group", ["tensor", "row"])
def test_nuslerp(group: str) -> None:
    vectors = task_vectors(2)
    vectors[1]["b"] = 2.0 * vectors[0]["b"]
    found = ours("nuslerp", vectors, WEIGHTS=(1.0, 3.0), GROUP=group)
    expected = theirs("nuslerp", vectors, weight={"a": 1.0, "b": 3.0}, nuslerp_flatten=group == "tensor")
    if group == "row":
        # nearly collinear rows (differences of sums in float64) are an arc there and a line here; both are close
        del found["b"], expected["b"]
    assert_close(found, expected)


def test_karcher() -> None:
    vectors = task_vectors()
    for tolerance, iterations in ((1e-5, 10), (1e-5, 2)):
        found = ours("karcher", vectors, ITERATIONS=iterations, TOLERANCE=tolerance)
        expected = theirs_of_weights("karcher", vectors, max_iter=iterations, tol=tolerance)
        for name in found:
            torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("topk", [0.1, 0.5, 1.0])
def test_sce(topk: float) -> None:
    vectors = task_vectors()
    assert_close(ours("sce", vectors, TOPK=topk), theirs("sce", vectors, select_topk=topk))


def sparse(vectors: list[Vector]) -> list[Vector]:
    return [{n: torch.where(t.abs() > 0.8, t, 0.0) for n, t in v.items()} for v in vectors]


def test_ram() -> None:
    vectors = sparse(task_vectors())
    assert_close(ours("ram", vectors), theirs("ram", vectors))
    found = ours("ram_plus", vectors, COUNT="tensor", ALPHA=2.0)
    assert_close(found, theirs("ramplus_tl", vectors, alpha=2.0))
    assert_close(ours("ram_plus", vectors, COUNT="tensor"), theirs("ramplus_tl", vectors))


# Differences, each shown.


def difference(name: str) -> None:
    """Marks the test that shows a named difference."""
    assert name in DIFFERENCES


def test_difference_ties() -> None:
    difference("ties: whole vector")
    vectors = task_vectors()
    vectors[0]["b"] = 100.0 * vectors[0]["b"]
    assert differ(ours("ties", vectors), theirs("ties", vectors, density=0.2, weight=1.0))
    difference("ties: default density")
    assert differ(ours("ties", vectors, TRIM="tensor"), theirs("ties", vectors, weight=1.0))
    assert_close(ours("ties", vectors, DENSITY=1.0), theirs("ties", vectors, weight=1.0))
    difference("ties: equal magnitudes")
    equal = [{"w": torch.ones(4)}]
    assert ours("ties", equal, DENSITY=0.5, TRIM="tensor")["w"].sum().item() == 4.0
    models = {"seed": {"w": torch.zeros(4)}, "a": equal[0]}
    kept = merge_state_dicts(models, "ties", base="seed", parameters={"density": 0.5, "weight": 1.0})["w"]
    assert kept.sum().item() == 2.0


def test_difference_breadcrumbs() -> None:
    difference("breadcrumbs: small tensors")
    one = [{"w": torch.tensor([3.0])}]
    assert ours("breadcrumbs", one, SCALE=1.0)["w"].item() == 3.0
    assert theirs("breadcrumbs", one, density=0.9, weight=1.0)["w"].item() == pytest.approx(0.0)


def test_difference_random() -> None:
    difference("dare: rescaling")
    ones = [{"w": torch.ones(30, 30)}]
    by_probability = ours("dare_linear", ones, DROP=0.9, SCALE=1.0)["w"].max().item()
    by_norm = ours("dare_linear", ones, DROP=0.9, SCALE=1.0, RESCALE="norm")["w"].max().item()
    assert by_probability == pytest.approx(10.0)
    assert by_norm != pytest.approx(10.0, rel=1e-3)
    difference("dare, della: draws")
    torch.manual_seed(0)
    first = theirs("dare_linear", ones, density=0.5, weight=1.0)
    assert differ(first, theirs("dare_linear", ones, density=0.5, weight=1.0))
    assert not differ(ours("dare_linear", ones), ours("dare_linear", ones))
    difference("della: rows of one value")
    column = [{"w": torch.ones(50, 1)}]
    assert ours("della_linear", column)["w"].isfinite().all()
    with pytest.raises(RuntimeError):  # bernoulli of NaN
        theirs("della_linear", column, density=0.6, epsilon=0.1, weight=1.0)


def test_difference_directions() -> None:
    difference("slerp: a zero tensor")
    pair = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.zeros(2)}]
    assert ours("slerp", pair)["w"].tolist() == [0.5, 0.0]
    assert theirs_of_weights("slerp", pair, base="a", t=0.5)["w"].tolist() == pytest.approx([0.5**0.5, 0.0])
    difference("karcher: tiny task vectors")
    tiny = [{"w": torch.tensor([1e-6, 0.0])}, {"w": torch.tensor([0.0, 1e-6])}]
    assert ours("karcher", tiny)["w"].tolist() == pytest.approx([0.5**0.5 * 1e-6] * 2)
    assert theirs_of_weights("karcher", tiny)["w"].tolist() == [0.0, 0.0]
    difference("model_stock: two models")
    (vector,) = task_vectors(1)
    assert not differ(ours("model_stock", [vector]), vector)
    with pytest.raises(ValueError, match="at least 3"):
        theirs("model_stock", [vector])


def test_difference_sce() -> None:
    difference("sce: tiny task vectors")
    a, b = {"w": torch.tensor([1e-4, 3e-4])}, {"w": torch.tensor([3e-4, 1e-4])}
    b = {"w": 2 * b["w"]}  # energies 1 : 4
    found, expected = ours("sce", [a, b], TOPK=1.0)["w"], theirs("sce", [a, b])["w"]
    assert found.tolist() == pytest.approx([0.2 * 1e-4 + 0.8 * 6e-4, 0.2 * 3e-4 + 0.8 * 2e-4])
    assert expected.tolist() == pytest.approx([3.5e-4, 2.5e-4])
    for each in (a, b):
        each["w"] = 1e4 * each["w"]
    assert_close(ours("sce", [a, b], TOPK=1.0), theirs("sce", [a, b]))
