"""The grammar writes programs that run, in both dtypes and for any number of sources, and that differ in result."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfdev.zoo.generator_measure import SHAPES, fingerprint, task_vectors
from selfdev.zoo.grammar import MAX_CHARACTERS, SKELETONS, expand, number, write_program
from selfdev.zoo.grammar_rules import (
    FLAT_REDUCE_RULES,
    FLAT_STACK_RULES,
    FOLD_RULES,
    HABITS,
    MATRIX_RULES,
    REDUCE_RULES,
    STACK_RULES,
    TENSOR_RULES,
    Rule,
)

Merge = Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]

GOLDEN = """\
import torch


def merge_models(task_vectors):
    merged = {}
    for name, ref in task_vectors[0].items():
        stack = torch.stack([tv[name].float() for tv in task_vectors])
        stack = stack * (stack.abs() > 1.0 * stack.std())
        value = stack.sum(dim=0)
        merged[name] = value.to(ref.dtype)
    return merged
"""


def compiled(program: str) -> Merge:
    """The merge function of a program of our own grammar (trusted text)."""
    scope: dict[str, Merge] = {}
    exec(compile(program, "<program>", "exec"), scope)
    return scope["merge_models"]


def assert_valid(merged: dict[str, Tensor], vectors: list[dict[str, Tensor]], program: str) -> None:
    assert list(merged) == list(SHAPES), program
    for name, tensor in merged.items():
        assert tensor.shape == vectors[0][name].shape, program
        assert tensor.dtype == vectors[0][name].dtype, program
        assert bool(torch.isfinite(tensor).all()), program


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), sources=st.integers(2, 6), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_every_program_gives_a_valid_merge_and_keeps_its_inputs(seed: int, sources: int, dtype: torch.dtype) -> None:
    program = write_program(random.Random(seed))
    vectors = task_vectors(sources, dtype=dtype)
    assert_valid(compiled(program)(vectors), vectors, program)
    untouched = task_vectors(sources, dtype=dtype)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(vectors, untouched, strict=True) for name in SHAPES)


def test_programs_differ_in_result_and_size() -> None:
    vectors = task_vectors()
    total = sum(sum(vector[name] for vector in vectors).pow(2).sum() for name in SHAPES) ** 0.5
    marks, sizes = set(), []
    for seed in range(100):
        merged = compiled(write_program(random.Random(seed)))(vectors)
        marks.add(fingerprint(merged))
        sizes.append(float(sum(merged[name].pow(2).sum() for name in SHAPES) ** 0.5 / total))
    sizes.sort()
    assert len(marks) >= 94
    assert sizes[10] < 0.2  # a tenth of them are timid ...
    assert sizes[-10] > 0.7  # ... and a tenth nearly as large as the plain sum


def test_the_same_seed_gives_the_same_program() -> None:
    assert write_program(random.Random(7)) == GOLDEN


def test_a_seeded_stream_repeats_and_goes_on() -> None:
    one, two = random.Random(3), random.Random(3)
    first = [write_program(one) for _ in range(20)]
    assert first == [write_program(two) for _ in range(20)]
    assert len(set(first)) == 20


def test_programs_are_short_and_leave_no_notation_behind() -> None:
    for seed in range(300):
        program = write_program(random.Random(seed))
        assert len(program) <= MAX_CHARACTERS
        assert "<<" not in program
        assert "$" not in program
        assert program.endswith("\n")


def test_all_skeletons_occur_with_their_kind_of_code() -> None:
    programs = [write_program(random.Random(seed)) for seed in range(300)]
    marks = ["torch.stack(", ".flatten() for", "zip(", "for tv in task_vectors:", "task_vectors[1:]:", "return {"]
    for mark in (*marks, "linalg.svd", "manual_seed", "re.search", '"""', "# ", "elif"):
        assert any(mark in program for program in programs), mark
    assert len(SKELETONS) == 7


def test_every_name_of_a_program_is_bound_before_it_is_read() -> None:
    known = {"torch", "re", "max", "min", "int", "sum", "zip", "range", "len", "enumerate"}
    for seed in range(200):
        program = write_program(random.Random(seed))
        nodes = list(ast.walk(ast.parse(program)))
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert read <= bound | known, program


def run_rule(variant: str, **scope: object) -> dict[str, object]:
    lines = expand(random.Random(1), variant).replace("$x", "x").replace("$", "")
    scope |= {"torch": torch, "gen": torch.Generator().manual_seed(0)}
    exec(lines, scope)
    return scope


def variants(*tables: tuple[Rule, ...]) -> list[str]:
    return [variant for table in tables for rule in table for variant in rule.variants]


@pytest.mark.parametrize("variant", variants(TENSOR_RULES, MATRIX_RULES))
def test_tensor_rules_keep_the_shape_and_change_a_matrix(variant: str) -> None:
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    after = run_rule(variant, x=matrix.clone())["x"]
    assert isinstance(after, Tensor)
    assert after.shape == matrix.shape
    assert not torch.equal(after, matrix) or "dim() == 1" in variant
    assert run_rule(variant, x=matrix[0])["x"].shape == (4,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "variant", variants(STACK_RULES, FLAT_STACK_RULES, REDUCE_RULES, FLAT_REDUCE_RULES, FOLD_RULES)
)
def test_stack_and_fold_rules_keep_their_types(variant: str) -> None:
    stack = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    scope = run_rule(variant, stack=stack, value=stack[0], delta=stack[1])
    assert scope["stack"].shape == (3, 8)  # type: ignore[attr-defined]
    assert scope["value"].shape == (8,)  # type: ignore[attr-defined]


def test_sign_election_by_hand() -> None:
    stack = torch.tensor([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-1.0, 0.5, -1.0]])
    elect = next(rule for rule in STACK_RULES if rule.phrase == "elect signs")
    for variant in elect.variants:  # sums 2, -0.5, 1: signs +, -, +
        after = run_rule(variant, stack=stack)["stack"]
        assert torch.equal(after, torch.tensor([[1.0, -2.0, 3.0], [2.0, 0, 0], [0, 0, 0]]))  # type: ignore[arg-type]


def test_largest_magnitude_by_hand() -> None:
    rule = next(rule for rule in REDUCE_RULES if rule.phrase == "take the largest magnitude")
    value = run_rule(rule.variants[0], stack=torch.tensor([[1.0, -2.0], [-3.0, 1.0]]))["value"]
    assert torch.equal(value, torch.tensor([-3.0, -2.0]))  # type: ignore[arg-type]


def test_numbers_lie_on_the_grid_between_their_bounds() -> None:
    rng = random.Random(0)
    drawn = {number(rng, 0.1, 0.3) for _ in range(200)}
    assert drawn == {"0.1", "0.15", "0.2", "0.25", "0.3"}


def test_slots_nest_and_alternatives_may_be_empty() -> None:
    rng = random.Random(0)
    texts = {expand(rng, "a <<|<<1:2#>> * >>b <<x|y>>") for _ in range(200)}
    assert texts == {f"a {factor}b {end}" for factor in ("", "1 * ", "2 * ") for end in "xy"}


def test_naming_habits_never_give_two_roles_one_name() -> None:
    for habit in HABITS:
        names = list(habit.values())
        assert len(set(names)) == len(names)
        assert not set(names) & (set(HABITS[1]) | set(HABITS[2])) - set(habit)
