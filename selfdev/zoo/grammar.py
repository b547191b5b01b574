"""A seeded, typed grammar of merge programs: the pretraining text of the zoo's generator.

`write_program(rng)` returns the source of one `merge_models(task_vectors)`. A skeleton (stack, weighted sum, fold,
branches by name, one expression) is filled with rules of `selfdev.zoo.grammar_rules` whose types fit, then the roles
are replaced by the names of one naming habit. Every program is valid Python and, with plain PyTorch, gives one finite
tensor per parameter for two or more task vectors in float32 or bfloat16.

Nothing is evaluated here: the grammar knows operations, not which of them merge well. Needs no torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from selfdev.zoo.grammar_rules import (
    FLAT_REDUCE_RULES,
    FLAT_STACK_RULES,
    FOLD_RULES,
    HABIT_WEIGHTS,
    HABITS,
    HELPERS,
    MATRIX_RULES,
    NAME_RULES,
    REDUCE_RULES,
    SCALES,
    SETUPS,
    SOURCE_WEIGHTS,
    STACK_RULES,
    TENSOR_RULES,
    Rule,
)

MAX_CHARACTERS = 900
GRID = 0.05

_ROLE = re.compile(r"\$([a-z]+)")
_SLOT = re.compile(r"<<((?:(?!<<|>>).)*)>>")
_NUMBER_RANGE = re.compile(r"(-?[\d.]+):(-?[\d.]+)(#?)")


def number(rng: random.Random, low: float, high: float) -> str:
    """A number on the 0.05 grid in [low, high], written as people do (`0.4`, not `0.40`)."""
    steps = rng.randint(round(low / GRID), round(high / GRID))
    return str(round(steps * GRID, 2))


def expand(rng: random.Random, template: str) -> str:
    """Fill the `<<...>>` slots of a template, inner ones first (notation: `selfdev.zoo.grammar_rules`)."""

    def choose(slot: re.Match[str]) -> str:
        span = _NUMBER_RANGE.fullmatch(slot[1])
        if span is None:
            return rng.choice(str(slot[1]).split("|"))
        low, high, whole = span.groups()
        return str(rng.randint(int(low), int(high))) if whole else number(rng, float(low), float(high))

    while "<<" in template:
        template = _SLOT.sub(choose, template)
    return template


def rename(text: str, habit: Mapping[str, str]) -> str:
    """Replace the `$roles` of a text by the names of one naming habit; a role it does not list keeps its own name."""
    return _ROLE.sub(lambda role: habit.get(role[1], role[1]), text)


def pick(rng: random.Random, rules: Sequence[Rule]) -> Rule:
    """One rule, in proportion to the weights."""
    return rng.choices(rules, weights=[rule.weight for rule in rules])[0]


def indent(lines: Sequence[str], levels: int = 1) -> list[str]:
    """The lines, moved right by four spaces per level."""
    return ["    " * levels + line for line in lines]


class _Draft:
    """One program while it is written: chosen rules, what they need before the loop, and the comment habit."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.imports: list[str] = []
        self.helpers: list[str] = []
        self.setup: list[str] = []
        self.phrases: list[str] = []
        self.comments = rng.random() < 0.08

    def apply(self, rules: Sequence[Rule], x: str = "$value") -> list[str]:
        """Lines of one picked rule, applied to the role `x`."""
        rule = pick(self.rng, rules)
        for need in rule.needs:
            line = expand(self.rng, SETUPS[need])
            if not any(line.split(" = ")[0] == known.split(" = ")[0] for known in self.setup):
                self.setup.append(line)
        self.phrases.append(rule.phrase)
        lines = expand(self.rng, self.rng.choice(rule.variants)).replace("$x", x).split("\n")
        return [f"# {rule.phrase}", *lines] if self.comments else lines

    def some(self, rules: Sequence[Rule], x: str, odds: Sequence[int]) -> list[str]:
        """Lines of 0, 1, 2 ... rules; `odds` are the relative frequencies of these counts."""
        count = self.rng.choices(range(len(odds)), weights=odds)[0]
        return [line for _ in range(count) for line in self.apply(rules, x)]

    def scale(self, shaped: bool = True) -> tuple[list[str], str]:
        """Lines that set the final factor, and the factor itself ('' for none)."""
        rule = pick(self.rng, [rule for rule in SCALES if shaped or rule.phrase != "by shape"])
        text = expand(self.rng, self.rng.choice(rule.variants))
        if "re" in rule.needs:
            self.imports.append("import re")
        if "$scale" not in text:
            return [], text
        if rule.phrase == "named":
            self.setup.append(text)
            return [], "$scale"
        return text.split("\n"), "$scale"

    def program(self, body: Sequence[str]) -> str:
        """The whole source: imports, helpers, signature, docstring, set-up, body."""
        rng = self.rng
        head = ["import torch"] if not self.imports else [*self.imports, *rng.choice([[""], []]), "import torch"]
        doc: list[str] = []
        if self.phrases and not self.comments and rng.random() < 0.2:
            sentence = ", ".join(dict.fromkeys(self.phrases)).capitalize()
            doc = [f'"""{sentence}."""'] if rng.random() < 0.5 else [f"# {sentence}."]
        gap = ["", ""]
        helpers = [line for helper in self.helpers for line in [*helper.split("\n"), *gap]]
        return "\n".join(
            [*head, *gap, *helpers, "def merge_models(task_vectors):", *indent([*doc, *self.setup, *body]), ""]
        )


def _store(factor: str, flat: bool, rng: random.Random, value: str = "$value") -> tuple[str, str]:
    """The loop header and the line that stores the result, in one of three spellings that belong together."""
    product = f"{factor} * {value}" if factor else value
    wrapped = f"({product})" if factor else product
    if rng.random() < 0.4:
        header, ref = "for $name, ref in task_vectors[0].items():", "ref"
    else:
        header, ref = "for $name in task_vectors[0]:", "task_vectors[0][$name]"
    if flat:
        call = f".view_as({ref}).to({ref}.dtype)" if ref == "ref" else f".reshape({ref}.shape).to({ref}.dtype)"
    else:
        call = f".to({ref}.dtype)"
    return header, f"$merged[$name] = {wrapped}{call}"


def _loop(draft: _Draft, flat: bool, inner: Sequence[str], factor: str, value: str = "$value") -> list[str]:
    header, store = _store(factor, flat, draft.rng, value)
    return ["$merged = {}", header, *indent([*inner, store]), "return $merged"]


def _sources(rng: random.Random) -> str:
    """All task vectors mostly, sometimes only some of them."""
    return rng.choices(["task_vectors", "task_vectors[:2]", "task_vectors[1:]", "task_vectors[-2:]"], [12, 1, 1, 1])[0]


def _helper(draft: _Draft) -> str:
    """Add a helper function; returns its name."""
    rule = pick(draft.rng, HELPERS)
    draft.helpers.append(expand(draft.rng, draft.rng.choice(rule.variants)))
    return rule.phrase


def _value_rules(draft: _Draft) -> list[str]:
    """0 to 2 operations on the merged value of one parameter."""
    table = draft.rng.choices([TENSOR_RULES, MATRIX_RULES, NAME_RULES], weights=[3, 3, 3])[0]
    return draft.some(table, "$value", (5, 4, 1))


def _stacked(draft: _Draft) -> list[str]:
    """Stack the sources per parameter, change the stack, reduce it, change the value."""
    rng = draft.rng
    call = "{}"
    if rng.random() < 0.2:
        call = _helper(draft) + "({})"
    inner = [f"$stack = torch.stack([{call.format('$tv[$name].float()')} for $tv in {_sources(rng)}])"]
    inner += draft.some((*STACK_RULES, *TENSOR_RULES), "$stack", (4, 5, 2))
    inner += draft.apply(REDUCE_RULES)
    inner += _value_rules(draft)
    lines, factor = draft.scale()
    return _loop(draft, False, [*inner, *lines], factor)


def _flat(draft: _Draft) -> list[str]:
    """As `_stacked`, but every source is a row, so that norms and similarities per source are at hand."""
    rng = draft.rng
    flatten = rng.choice(["flatten()", "reshape(-1)"])
    inner = [f"$stack = torch.stack([$tv[$name].float().{flatten} for $tv in {_sources(rng)}])"]
    if rng.random() < 0.55:
        inner += draft.some((*STACK_RULES, *FLAT_STACK_RULES, *FLAT_STACK_RULES), "$stack", (2, 5, 2))
        inner += draft.apply((*FLAT_REDUCE_RULES, *REDUCE_RULES))
    else:
        inner += draft.some(FLAT_STACK_RULES, "$stack", (3, 2, 0))
        inner += draft.apply(FLAT_REDUCE_RULES)
    inner += draft.some((*TENSOR_RULES, *NAME_RULES), "$value", (6, 3, 1))
    lines, factor = draft.scale(shaped=False)
    return _loop(draft, True, [*inner, *lines], factor)


def _weighted(draft: _Draft) -> list[str]:
    """A weighted sum of the sources, one coefficient each."""
    rng = draft.rng
    weights = draft.apply(SOURCE_WEIGHTS)
    term = f"{_helper(draft)}($tv[$name].float())" if rng.random() < 0.25 else "$tv[$name].float()"
    inner = [f"$value = sum(w * {term} for w, $tv in zip($weights, task_vectors))"]
    if weights[-1].startswith("$weights = [0") and weights[-1].count(",") == 2 and rng.random() < 0.5:
        other = expand(rng, SOURCE_WEIGHTS[0].variants[0])
        word = rng.choice(["mlp", "attn", "embed", "norm", "down_proj", "q_proj"])
        first, second = (text.replace("$weights = ", "") for text in (weights[-1], other))
        inner.insert(0, f'$weights = {first} if "{word}" in $name else {second}')
        weights = []
    draft.setup += weights
    inner += _value_rules(draft)
    lines, factor = draft.scale()
    return _loop(draft, False, [*inner, *lines], factor)


def _accumulated(draft: _Draft) -> list[str]:
    """A loop over the sources that changes each one and adds it."""
    rng = draft.rng
    if rng.random() < 0.4:
        draft.setup += draft.apply(SOURCE_WEIGHTS)
        header, factor = "for w, $tv in zip($weights, task_vectors):", "w * "
    elif rng.random() < 0.3:
        header = "for i, $tv in enumerate(task_vectors):"
        factor = expand(rng, "(<<0.3:1.0>> if i == <<0|1|2>> else <<0.1:0.7>>) * ")
    else:
        header, factor = f"for $tv in {_sources(rng)}:", expand(rng, "<<|<<0.2:1.0>> * >>")
    step = ["$delta = $tv[$name].float()"]
    step += draft.some((*TENSOR_RULES, *MATRIX_RULES), "$delta", (1, 6, 1))
    step += [f"$value = $value + {factor}$delta"]
    start = "$value = torch.zeros_like(task_vectors[0][$name]).float()"
    lines, final = draft.scale()
    tail = draft.some(NAME_RULES, "$value", (7, 2))
    if final == "" and rng.random() < 0.6:
        return _loop(draft, False, [start, header, *indent(step), *tail], "", "($value / len(task_vectors))")
    return _loop(draft, False, [start, header, *indent(step), *tail, *lines], final)


def _folded(draft: _Draft) -> list[str]:
    """Start from the first source and fold the others in, one after another."""
    rng = draft.rng
    start = expand(rng, "$value = <<|<<0.3:1.2>> * >>task_vectors[0][$name].float()")
    step = ["$delta = $tv[$name].float()"]
    step += draft.some(TENSOR_RULES, "$delta", (3, 1))
    step += draft.apply(FOLD_RULES)
    inner = [start, "for $tv in task_vectors[1:]:", *indent(step)]
    inner += _value_rules(draft)
    lines, factor = draft.scale()
    return _loop(draft, False, [*inner, *lines], factor)


def _branched(draft: _Draft) -> list[str]:
    """Another combination of the sources for each kind of parameter."""
    rng = draft.rng
    words = rng.sample(["mlp", "attn", "embed", "norm", "down_proj", "o_proj"], rng.choice([1, 2]))
    simple = [rule for rule in REDUCE_RULES if all("\n" not in text for text in rule.variants)]
    pair = Rule("weigh two sources", ("$value = <<0.1:1.0>> * $stack[0] + <<0.1:1.0>> * $stack[-1]",), 2.0)
    one = Rule("take one source", ("$value = <<0.3:1.2>> * $stack[<<0|1|-1>>]",), 2.0)
    inner = ["$stack = torch.stack([$tv[$name].float() for $tv in task_vectors])"]
    for i, word in enumerate(words):
        inner += [f'{"elif" if i else "if"} "{word}" in $name:', *indent(draft.apply([*simple, pair, one]))]
    inner += ["else:", *indent(draft.apply([*simple, pair, one]))]
    inner += draft.some(TENSOR_RULES, "$value", (3, 2))
    factor = expand(rng, "<<|<<0.3:1.3>>>>")
    return _loop(draft, False, inner, factor)


def _expression(draft: _Draft) -> list[str]:
    """The whole merge as one dictionary comprehension."""
    rng = draft.rng
    term, source = "$tv[$name]", "task_vectors"
    if rng.random() < 0.4:
        helper = _helper(draft)
        return [
            *draft.setup,
            "return {",
            expand(rng, f"    $name: (<<0.1:1.0>> * sum({helper}($tv[$name].float()) for $tv in task_vectors))")
            + ".to(task_vectors[0][$name].dtype)",
            "    for $name in task_vectors[0]",
            "}",
        ]
    if rng.random() < 0.6:
        draft.setup += draft.apply(SOURCE_WEIGHTS[:4])
        term, source = "w * $tv[$name]", "zip($weights, task_vectors)"
    target = "w, $tv" if source.startswith("zip") else "$tv"
    total = f"sum({term} for {target} in {source})"
    factor = expand(rng, "<<|<<0.1:1.5>> * >>")
    return [f"return {{$name: {factor}{total} for $name in task_vectors[0]}}"]


SKELETONS: dict[Callable[[_Draft], list[str]], float] = {
    _stacked: 5,
    _flat: 5,
    _weighted: 4,
    _accumulated: 4,
    _folded: 4,
    _branched: 2,
    _expression: 1.5,
}


def write_program(rng: random.Random) -> str:
    """One merge program, at most `MAX_CHARACTERS` long; the same state of `rng` gives the same text."""
    while True:
        draft = _Draft(rng)
        skeleton = rng.choices(list(SKELETONS), weights=list(SKELETONS.values()))[0]
        body = skeleton(draft)
        habit = rng.choices(HABITS, weights=HABIT_WEIGHTS)[0]
        text = rename(draft.program(body), habit)
        if len(text) <= MAX_CHARACTERS:
            return text
