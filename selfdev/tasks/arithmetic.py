"""Procedurally generated word problems in the shape of GSM8K, for the embedded zoo.

Three skills (addition, subtraction, multiplication), six templates each. The wordings overlap on purpose ("more" may
mean adding or comparing, "has now" may follow a gift or a loss), so that a model fine-tuned on one skill misreads the
others. Every reference rationale is one worked line and GSM8K's closing line, `#### N`.

Splits hold by construction: which split a problem belongs to is a hash of (skill, template, operands), so neither a
question text nor a (template, operands) combination can occur in two splits. Nothing depends on the Python version:
randomness is `random.Random` seeded with a string, hashing is SHA-256. Grading is left out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from selfdev.errors import UsageError
from selfdev.types import Question

SplitName = Literal["train", "dev", "test"]

_TRAIN_PERCENT, _DEV_PERCENT = 70, 15  # the rest, 15 %, is test
_DRAWS_PER_PROBLEM = 1_000  # draws without a new problem after which the split counts as exhausted

NAMES = (
    "Ana", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ivy", "James", "Kira", "Leo",
    "Mia", "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy", "Yusuf",
)  # fmt: skip
ITEMS = (
    "apples", "balls", "books", "buttons", "cards", "coins", "cookies", "eggs",
    "flowers", "marbles", "pears", "pencils", "shells", "stamps", "stickers", "toys",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Skill:
    """One kind of problem. Templates hold {name}, {other}, {items} and the operands {a}, {b}."""

    name: str
    symbol: str  # as written in the rationale: `a symbol b = answer`
    compute: Callable[[int, int], int]
    draw: Callable[[random.Random], tuple[int, int]]
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """One word problem with its worked answer."""

    id: str  # "arithmetic-SPLIT-" and 12 hex digits of the question text's SHA-256
    skill: str  # "add", "sub" or "mul"
    template: int  # which wording of the skill, from 0
    question: str  # the story alone, without "Question:"
    rationale: str  # one worked line and the closing line: " 23 + 45 = 68\n#### 68"
    answer: int  # never negative


def _draw_add(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(11, 60), rng.randrange(11, 60)


def _draw_sub(rng: random.Random) -> tuple[int, int]:
    a = rng.randrange(21, 80)
    return a, rng.randrange(11, min(a, 60))


def _draw_mul(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(2, 10), rng.randrange(11, 41)


SKILLS: Mapping[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill(
            name="add",
            symbol="+",
            compute=lambda a, b: a + b,
            draw=_draw_add,
            templates=(
                "{name} has {a} {items}. {other} gives {name} {b} more. How many {items} does {name} have now?",
                "{name} found {a} {items} and then {b} more. How many {items} did {name} find in all?",
                "There are {a} {items} in a box and {b} in a bag. How many {items} are there in total?",
                "{name} has {a} {items}. {other} has {b} more {items} than {name}. How many {items} does {other} have?",
                "A shop sold {a} {items} on Monday and {b} on Tuesday. How many {items} did it sell in all?",
                "{name} gave away {a} {items} and has {b} left. How many {items} did {name} have at first?",
            ),
        ),
        Skill(
            name="sub",
            symbol="-",
            compute=lambda a, b: a - b,
            draw=_draw_sub,
            templates=(
                "{name} has {a} {items}. {name} gives {other} {b} of them. How many {items} does {name} have now?",
                "{name} found {a} {items} and then lost {b}. How many {items} are left?",
                "There are {a} {items} in a box and a bag. The bag holds {b}. How many {items} are in the box?",
                "{name} has {a} {items}. {other} has {b} fewer {items} than {name}. "
                "How many {items} does {other} have?",
                "A shop had {a} {items} on Monday and sold {b}. How many {items} did it have on Tuesday?",
                "{name} has {a} {items} and {other} has {b}. How many more {items} does {name} have?",
            ),
        ),
        Skill(
            name="mul",
            symbol="*",
            compute=lambda a, b: a * b,
            draw=_draw_mul,
            templates=(
                "{name} has {a} boxes with {b} {items} each. How many {items} does {name} have in all?",
                "There are {a} bags. Each bag holds {b} {items}. How many {items} are there in total?",
                "{name} buys {a} {items} for {b} dollars each. How many dollars does {name} pay?",
                "For {a} days {name} found {b} {items} a day. How many {items} did {name} find in all?",
                "A shop sold {b} {items} a day for {a} days. How many {items} did it sell in all?",
                "{other} has {b} {items}. {name} has {a} times as many. How many {items} does {name} have?",
            ),
        ),
    )
}


def split_of(skill: str, template: int, operands: tuple[int, int]) -> SplitName:
    """The split of every problem with this skill, template number and operands, whatever its names and items."""
    key = f"{skill}|{template}|{operands[0]}|{operands[1]}"
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    if bucket < _TRAIN_PERCENT:
        return "train"
    return "dev" if bucket < _TRAIN_PERCENT + _DEV_PERCENT else "test"


def render(skill: Skill, template: int, operands: tuple[int, int], name: str, other: str, items: str) -> str:
    """The question text of one problem."""
    a, b = operands
    return skill.templates[template].format(name=name, other=other, items=items, a=a, b=b)


def _draw_problem(rng: random.Random, skill: Skill, split: SplitName) -> ArithmeticProblem:
    template = rng.randrange(len(skill.templates))
    operands = skill.draw(rng)
    while split_of(skill.name, template, operands) != split:
        operands = skill.draw(rng)
    first, shift = rng.randrange(len(NAMES)), rng.randrange(1, len(NAMES))
    name, other = NAMES[first], NAMES[(first + shift) % len(NAMES)]
    question = render(skill, template, operands, name, other, ITEMS[rng.randrange(len(ITEMS))])
    answer = skill.compute(*operands)
    return ArithmeticProblem(
        id=f"arithmetic-{split}-{hashlib.sha256(question.encode()).hexdigest()[:12]}",
        skill=skill.name,
        template=template,
        question=question,
        rationale=f" {operands[0]} {skill.symbol} {operands[1]} = {answer}\n#### {answer}",
        answer=answer,
    )


def stream(split: SplitName, seed: int, skill: str) -> Iterator[ArithmeticProblem]:
    """Endless problems of one skill and split, repeats possible: what training draws from."""
    rng = random.Random(f"arithmetic/{split}/{skill}/{seed}")
    while True:
        yield _draw_problem(rng, SKILLS[skill], split)


def _distinct(problems: Iterator[ArithmeticProblem], count: int) -> list[ArithmeticProblem]:
    found: dict[str, ArithmeticProblem] = {}
    misses = 0
    while len(found) < count:
        problem = next(problems)
        misses = misses + 1 if problem.question in found else 0
        found.setdefault(problem.question, problem)
        if misses > _DRAWS_PER_PROBLEM:
            raise UsageError(f"arithmetic: only about {len(found)} distinct problems per skill exist; ask for fewer")
    return list(found.values())


def questions(split: SplitName, count: int, seed: int) -> list[ArithmeticProblem]:
    """`count` distinct problems of one split, skills in rotation (their counts differ by one at most).

    Raises:
        UsageError: unknown split, fewer than one problem, or more than exist.
    """
    if split not in get_args(SplitName):
        raise UsageError(f"arithmetic: split {split!r} given; allowed are train, dev and test")
    if count < 1:
        raise UsageError(f"arithmetic: {count} questions asked for; ask for at least 1")
    columns = [_distinct(stream(split, seed, name), -(-count // len(SKILLS))) for name in SKILLS]
    return [problem for row in zip(*columns, strict=True) for problem in row][:count]


def assert_disjoint(splits: Mapping[str, Iterable[ArithmeticProblem]]) -> None:
    """Check that no question text occurs in two of the named splits.

    Raises:
        ValueError: with the first shared text and the two splits that hold it.
    """
    owner: dict[str, str] = {}
    for split, problems in splits.items():
        for problem in problems:
            held_by = owner.setdefault(problem.question, split)
            if held_by != split:
                raise ValueError(f"splits {held_by} and {split} share the question {problem.question!r}")


def prompt(problem: ArithmeticProblem) -> str:
    """The text given to the solver; the rationale continues it."""
    return f"Question: {problem.question}\nAnswer:"


def to_question(problem: ArithmeticProblem) -> Question:
    """The problem as the evaluator sees it."""
    return Question(id=problem.id, prompt=prompt(problem), gold=str(problem.answer), skill=problem.skill)
