"""The shipped corpus: hostile programs end as their header says and leave nothing behind; honest ones are bit-equal to
plain PyTorch. The files are data: hostile ones are only ever read as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from selfdev_sandbox import Limits, RunResult, Sandbox, Status

from tests.sandbox.conftest import SHAPES, make_vectors

PAYLOADS = Path(__file__).parent / "payloads"
HOSTILE = sorted((PAYLOADS / "hostile").glob("*.py"))
VALID = sorted((PAYLOADS / "valid").glob("*.py"))


def allowed_outcomes(source: str) -> list[Status]:
    found = re.search(r"^# outcomes: (.+)$", source, re.MULTILINE)
    assert found is not None, "a payload without a header"
    return [Status(word.strip()) for word in found[1].split(",")]


LITTLE = Limits(seconds=10.0, live_bytes=64 << 20, moved_bytes=2 << 30, flops=5e9, child_memory_bytes=64 << 20)


@pytest.fixture(scope="module")
def tight_box() -> Iterator[Sandbox]:
    """Little memory and work."""
    with Sandbox(LITTLE) as opened:
        yield opened


@pytest.fixture(scope="module")
def short_box() -> Iterator[Sandbox]:
    """And a short deadline, for programs that run until they are stopped."""
    with Sandbox(replace(LITTLE, seconds=0.8)) as opened:
        yield opened


def test_the_corpus_is_there() -> None:
    assert len(HOSTILE) >= 60
    assert len(VALID) >= 15


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_program(tight_box: Sandbox, short_box: Sandbox, path: Path, tmp_path: Path) -> None:
    source = path.read_text()
    vectors = make_vectors()
    random_state = torch.random.get_rng_state()
    box = short_box if Status.TIMEOUT in allowed_outcomes(source) else tight_box
    outcome = box.run(source.replace("CANARY", str(tmp_path / "canary")), vectors, seed=1)
    assert outcome.status in allowed_outcomes(source), f"{outcome.status}: {outcome.error}"
    assert (outcome.result is None) == (outcome.status is not Status.OK)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(random_state, torch.random.get_rng_state())
    for vector, original in zip(vectors, make_vectors(), strict=True):
        assert list(vector) == list(SHAPES)
        assert all(torch.equal(vector[name], original[name]) for name in SHAPES)
    assert outcome.seconds < box.limits.seconds + 1
    if outcome.error is not None:
        assert len(outcome.error) <= 500
        assert outcome.error.isprintable()


def run_plain(source: str, vectors: list[dict[str, torch.Tensor]], seed: int) -> dict[str, torch.Tensor]:
    """The honest program by itself, in this process, with the real torch."""
    namespace: dict[str, object] = {"__name__": "program"}
    torch.manual_seed(seed)
    exec(source, namespace)
    return namespace["merge_models"](vectors)  # type: ignore[operator, no-any-return]


def assert_same_bits(outcome: RunResult, expected: dict[str, torch.Tensor]) -> None:
    assert outcome.status is Status.OK, f"line {outcome.line}: {outcome.error}"
    assert outcome.result is not None
    assert list(outcome.result) == list(SHAPES)
    for name in SHAPES:
        assert torch.equal(outcome.result[name], expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_honest_program_is_bit_equal_to_pytorch(box: Sandbox, path: Path, dtype: torch.dtype) -> None:
    source = path.read_text()
    vectors = make_vectors(dtype)
    outcome = box.run(source, vectors, seed=5)
    assert_same_bits(outcome, run_plain(source, make_vectors(dtype), seed=5))
    for vector, original in zip(vectors, make_vectors(dtype), strict=True):
        assert all(torch.equal(vector[name], original[name]) for name in SHAPES)


def test_hostile_runs_do_not_change_a_later_honest_one(tight_box: Sandbox) -> None:
    """A hundred quick hostile programs, then the same bits as before."""
    honest = (PAYLOADS / "valid" / "default_generator.py").read_text()
    vectors = make_vectors()
    before = tight_box.run(honest, vectors, seed=2)
    quick = [
        p.read_text()
        for p in HOSTILE
        if Status.TIMEOUT not in allowed_outcomes(p.read_text())
        and Status.MEMORY not in allowed_outcomes(p.read_text())
    ]
    for i in range(100):
        assert tight_box.run(quick[i % len(quick)].replace("CANARY", "/proc/canary"), vectors, seed=2).status
    after = tight_box.run(honest, vectors, seed=2)
    assert before.result is not None
    assert_same_bits(after, before.result)
    other = tight_box.run(honest, vectors, seed=3)
    assert other.result is not None
    assert not all(torch.equal(other.result[name], before.result[name]) for name in SHAPES)
