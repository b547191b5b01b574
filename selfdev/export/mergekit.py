"""An algorithm as a mergekit recipe (0.1.5 or newer).

Linear rules become plain YAML for `mergekit-yaml`: task_arithmetic with a weight per source, by parameter where they
differ. Others become a module that registers a merge method, YAML and a launcher. mergekit gives a method one tensor at
a time, so rules that need several at once cannot be exported. Sources are told apart by an `index` in the YAML, never
by the order in which they arrive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from selfdev.apply.study import Parameters, small_shapes
from selfdev.errors import UsageError

CONFIG, METHOD, ALGORITHM, LAUNCHER = "mergekit_config.yml", "selfdev_method.py", "algorithm.py", "merge.py"
_TEMPLATES = {METHOD: "mergekit_method.py.txt", LAUNCHER: "mergekit_launcher.py.txt"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is exported."""

    id: str
    algorithm: str
    seed: str  # as mergekit opens it: a hub id, with @revision, or a directory
    sources: Sequence[str]
    parameters: Parameters  # merged ones, in the algorithm's order
    aliases: Mapping[str, Sequence[str]]  # parameter -> all names under which checkpoints may hold it
    scope: str | Sequence[str]  # "all", "mlp" or patterns
    out_dtype: str  # "bfloat16"
    execution_seed: int
    coefficients: Mapping[str, tuple[float, ...]] | None
    obstacle: str | None  # why it must see the whole model
    alone: bool  # it can be given one parameter without the others


def write_recipe(directory: Path, recipe: Recipe) -> list[str]:
    """Write the files; the command that merges.

    Raises:
        UsageError: the rule needs several parameters at once.
    """
    if recipe.coefficients is not None:
        (directory / CONFIG).write_text(linear_yaml(recipe), encoding="utf-8", newline="\n")
        return ["mergekit-yaml", CONFIG, "OUT"]
    if recipe.obstacle is not None:
        raise UsageError(
            f"mergekit merges one tensor at a time, and this algorithm sees more ({recipe.obstacle}); --to python or "
            "--to model can export it"
        )
    (directory / ALGORITHM).write_text(recipe.algorithm, encoding="utf-8", newline="\n")
    (directory / CONFIG).write_text(method_yaml(recipe), encoding="utf-8", newline="\n")
    for file, template in _TEMPLATES.items():
        text = Template((resources.files("selfdev.export") / template).read_text("utf-8"))
        (directory / file).write_text(text.substitute(_facts(recipe)), encoding="utf-8", newline="\n")
    return ["python", LAUNCHER, "OUT"]


def linear_yaml(recipe: Recipe) -> str:
    """Plain YAML: seed + sum of weight * (source - seed), computed in float32."""
    assert recipe.coefficients is not None
    lines = _head(recipe, "task_arithmetic")
    for place, source in enumerate(recipe.sources):
        weights = {name: row[place] for name, row in recipe.coefficients.items()}
        lines += [f"  - model: {json.dumps(source)}", "    parameters:"]
        lines += _weights(weights, recipe)
    lines += ["parameters:", "  normalize: false", "  lambda: 1.0"]
    return "\n".join([*lines, *_tail(recipe)])


def method_yaml(recipe: Recipe) -> str:
    """YAML for the launcher."""
    lines = _head(recipe, f"selfdev_{recipe.id}")
    for place, source in enumerate(recipe.sources):
        lines += [f"  - model: {json.dumps(source)}", "    parameters:", f"      index: {place}"]
    return "\n".join([*lines, *_tail(recipe)])


def _head(recipe: Recipe, method: str) -> list[str]:
    return [f"merge_method: {method}", f"base_model: {json.dumps(recipe.seed)}", "models:"]


def _tail(recipe: Recipe) -> list[str]:
    return ["dtype: float32", f"out_dtype: {recipe.out_dtype}", ""]


def _weights(values: Mapping[str, float], recipe: Recipe) -> list[str]:
    """One weight for all parameters, or a list in which the first filter that a name contains decides.

    What is not merged has weight 0, so a list ends with it.
    """
    distinct = set(values.values())
    if len(distinct) == 1 and recipe.scope == "all":
        return [f"      weight: {distinct.pop()!r}"]
    if len(distinct) == 1 and recipe.scope == "mlp":
        rows = [(".mlp.", distinct.pop())]
    else:
        rows = [(alias, value) for name, value in values.items() for alias in recipe.aliases[name]]
        rows.sort(key=lambda row: -len(row[0]))  # a name that contains another one comes first
    shown = [f"        - {{filter: {json.dumps(name)}, value: {value!r}}}" for name, value in rows]
    return ["      weight:", *shown, "        - {value: 0.0}"]


def _facts(recipe: Recipe) -> dict[str, str]:
    names = {alias: name for name in recipe.parameters for alias in recipe.aliases[name]}
    shapes = None if recipe.alone else small_shapes(recipe.parameters)
    dtypes = {name: str(p.dtype).removeprefix("torch.") for name, p in recipe.parameters.items()}
    return {
        "id": recipe.id,
        "names": _literal(names),
        "dtypes": _literal(dtypes),
        "shapes": "None" if shapes is None else _literal(shapes),
        "count": str(len(recipe.sources)),
        "execution_seed": str(recipe.execution_seed),
        "config": CONFIG,
    }


def _literal(values: Mapping[str, object]) -> str:
    return "{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in values.items()) + "}"
