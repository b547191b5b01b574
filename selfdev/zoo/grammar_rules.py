"""The rules of the merge-program grammar: typed operations written as text templates.

Each rule turns one kind of value into another: a tensor into a tensor of the same shape, a stack (one tensor per
source, sources along axis 0) into a stack, a stack into one value. `selfdev.zoo.grammar` picks rules whose types fit
and lays the lines out as a program.

Template notation:

    <<a|b|c>>       one of the alternatives
    <<0.1:0.9>>     a number on the 0.05 grid, both ends included
    <<1:4#>>        a whole number (slots nest: <<|<<0.2:1.0>> * >>)
    $role           a variable; the naming habit of the program replaces it (`$stack` -> `deltas`)
    $x              the tensor the rule is applied to

Left out: anything that needs data or gradients, and rules that change the number or shape of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One operation of the grammar."""

    phrase: str
    """What it does, in a few words; becomes a comment or part of a docstring."""

    variants: tuple[str, ...]
    """Equivalent spellings; each is one or more lines of a template."""

    weight: float = 1.0
    """Relative frequency among the rules of its table."""

    needs: tuple[str, ...] = ()
    """Names of set-up rules (`SETUPS`) whose lines have to come before the loop over parameters."""


SETUPS: dict[str, str] = {
    "generator": "$gen = torch.Generator().manual_seed(<<0:99#>>)",
}

# Tensor of any shape -> tensor of the same shape. Only whole-tensor statistics, so that they fit stacks too.
TENSOR_RULES: tuple[Rule, ...] = (
    Rule(
        "drop small entries",
        (
            "$x = $x * ($x.abs() > <<0.2:1.5>> * $x.std())",
            "$mask = $x.abs() >= <<0.3:1.5>> * $x.abs().mean()\n$x = $x * $mask",
            "$mask = $x.abs() > <<0.3:1.5>> * $x.abs().mean()\n$x = torch.where($mask, $x, torch.zeros_like($x))",
        ),
        2.0,
    ),
    Rule(
        "keep the top quantile",
        (
            "$cut = torch.quantile($x.abs(), <<0.1:0.9>>)\n$x = $x * ($x.abs() >= $cut)",
            "$cut = $x.abs().flatten().quantile(<<0.1:0.9>>)\n"
            "$x = torch.where($x.abs() >= $cut, $x, torch.zeros_like($x))",
        ),
        1.5,
    ),
    Rule(
        "keep the largest entries",
        (
            "$keep = max(1, int(<<0.1:0.9>> * $x.numel()))\n"
            "$cut = $x.abs().flatten().topk($keep).values[-1]\n"
            "$x = $x * ($x.abs() >= $cut)",
        ),
        1.5,
    ),
    Rule(
        "remove extreme entries",
        (
            "$cut = torch.quantile($x.abs(), <<0.85:0.95>>)\n$x = $x * ($x.abs() <= $cut)",
            "$mask = $x.abs() <= <<1.5:3.0>> * $x.std()\n$x = $x * $mask",
        ),
    ),
    Rule(
        "clip outliers",
        (
            "$limit = <<0.5:3.0>> * $x.std()\n$x = torch.clamp($x, -$limit, $limit)",
            "$limit = <<0.5:3.0>> * $x.std()\n$x = $x.clamp(-$limit, $limit)",
        ),
        1.2,
    ),
    Rule(
        "squash with tanh",
        ("$limit = <<0.5:3.0>> * $x.std() + 1e-8\n$x = $limit * torch.tanh($x / $limit)",),
    ),
    Rule(
        "shrink towards zero",
        ("$cut = <<0.1:0.8>> * $x.abs().mean()\n$x = torch.sign($x) * torch.relu($x.abs() - $cut)",),
    ),
    Rule(
        "flatten magnitudes",
        (
            "$size = $x.abs().mean()\n$x = <<0.2:0.8>> * $x + <<0.1:0.6>> * $size * torch.sign($x)",
            "$size = $x.abs().mean()\n$x = $size * torch.sign($x)",
        ),
        0.7,
    ),
    Rule(
        "drop at random and rescale",
        ("$drop = <<0.1:0.8>>\n$mask = torch.rand($x.shape, generator=$gen) >= $drop\n$x = $x * $mask / (1 - $drop)",),
        1.2,
        needs=("generator",),
    ),
    Rule(
        "drop at random",
        ("$mask = torch.rand($x.shape, generator=$gen) > <<0.1:0.6>>\n$x = $x * $mask",),
        0.8,
        needs=("generator",),
    ),
)

# A matrix keeps its shape; vectors pass unchanged. Not for stacks.
MATRIX_RULES: tuple[Rule, ...] = (
    Rule(
        "keep the leading singular directions",
        (
            "if $x.dim() == 2:\n"
            "    $u, $s, $v = torch.linalg.svd($x, full_matrices=False)\n"
            "    $rank = max(1, int(<<0.1:0.9>> * len($s)))\n"
            "    $x = ($u[:, :$rank] * $s[:$rank]) @ $v[:$rank]",
        ),
        2.0,
    ),
    Rule(
        "shrink the singular values",
        (
            "if $x.dim() == 2:\n"
            "    $u, $s, $v = torch.linalg.svd($x, full_matrices=False)\n"
            "    $s = torch.relu($s - <<0.5:1.5>> * $s.mean())\n"
            "    $x = ($u * $s) @ $v",
            "if $x.dim() == 2:\n"
            "    $u, $s, $v = torch.linalg.svd($x, full_matrices=False)\n"
            "    $s = <<0.2:0.9>> * $s + <<0.1:0.8>> * $s.mean()\n"
            "    $x = ($u * $s) @ $v",
        ),
    ),
    Rule(
        "balance the rows",
        (
            "if $x.dim() == 2:\n"
            "    $norms = $x.norm(dim=1, keepdim=True)\n"
            "    $x = $x * $norms.mean() / ($norms + 1e-8)",
        ),
    ),
    Rule("scale down vectors", ("if $x.dim() == 1:\n    $x = <<0.0:0.8>> * $x",), 1.2),
    Rule("scale matrices", ("if $x.dim() == 2:\n    $x = <<0.4:1.5>> * $x",), 1.2),
)

# Scaling by the parameter's name; needs $name in scope.
NAME_RULES: tuple[Rule, ...] = (
    Rule("scale the MLP", ('if "mlp" in $name:\n    $x = <<0.2:1.5>> * $x',), 2.0),
    Rule("scale attention", ('if "attn" in $name:\n    $x = <<0.0:1.5>> * $x',), 2.0),
    Rule("damp the embeddings", ('if "embed" in $name:\n    $x = <<0.0:0.9>> * $x',), 1.5),
    Rule("damp the norms", ('if "norm" in $name:\n    $x = <<0.0:0.9>> * $x',), 1.5),
    Rule(
        "scale one projection",
        ('if "<<q_proj|k_proj|v_proj|o_proj|up_proj|down_proj|gate_proj>>" in $name:\n    $x = <<0.0:1.5>> * $x',),
    ),
)

# Stack -> stack, over the sources (axis 0), any further shape.
STACK_RULES: tuple[Rule, ...] = (
    Rule(
        "elect signs",
        (
            "$sign = torch.sign($stack.sum(dim=0))\n$stack = $stack * (torch.sign($stack) == $sign)",
            "$sign = torch.sign($stack.mean(dim=0))\n$mask = torch.sign($stack) == $sign\n$stack = $stack * $mask",
        ),
        3.0,
    ),
    Rule(
        "damp entries against the majority sign",
        (
            "$sign = torch.sign($stack.sum(dim=0))\n$mask = torch.sign($stack) == $sign\n"
            "$stack = torch.where($mask, $stack, <<0.1:0.7>> * $stack)",
        ),
    ),
    Rule(
        "pull towards the mean",
        ("$mean = $stack.mean(dim=0)\n$stack = $mean + <<0.2:0.9>> * ($stack - $mean)",),
        0.6,
    ),
    Rule(
        "subtract the common part",
        ("$mean = $stack.mean(dim=0)\n$stack = $stack - <<0.1:0.8>> * $mean",),
        0.6,
    ),
    Rule(
        "keep entries above the average magnitude",
        ("$size = $stack.abs().mean(dim=0)\n$stack = $stack * ($stack.abs() >= <<0.4:1.2>> * $size)",),
    ),
)

# Stack (sources, values) -> the same: statistics per source along axis 1.
FLAT_STACK_RULES: tuple[Rule, ...] = (
    Rule(
        "trim each source",
        (
            "$cut = $stack.abs().quantile(<<0.1:0.9>>, dim=1, keepdim=True)\n$stack = $stack * ($stack.abs() >= $cut)",
            "$keep = max(1, int(<<0.1:0.9>> * $stack.shape[1]))\n"
            "$cut = $stack.abs().topk($keep, dim=1).values[:, -1:]\n"
            "$stack = $stack * ($stack.abs() >= $cut)",
        ),
        3.0,
    ),
    Rule(
        "equalise the norms",
        (
            "$norms = $stack.norm(dim=1, keepdim=True)\n$stack = $stack * $norms.<<mean|max|min>>() / ($norms + 1e-8)",
            "$norms = $stack.norm(dim=1, keepdim=True)\n"
            "$stack = $stack * ($norms.mean() / ($norms + 1e-8)) ** <<0.2:0.9>>",
        ),
        2.0,
    ),
    Rule(
        "mask by standard deviation",
        ("$std = $stack.std(dim=1, keepdim=True)\n$stack = $stack * ($stack.abs() > <<0.2:1.5>> * $std)",),
        1.5,
    ),
)

# Stack -> value of one source's shape.
REDUCE_RULES: tuple[Rule, ...] = (
    Rule("average", ("$value = $stack.mean(dim=0)",), 3.0),
    Rule("sum", ("$value = $stack.sum(dim=0)",), 2.0),
    Rule("take the median", ("$value = $stack.median(dim=0).values",)),
    Rule(
        "mix mean and median",
        ("$value = <<0.2:0.9>> * $stack.mean(dim=0) + <<0.1:0.8>> * $stack.median(dim=0).values",),
        0.8,
    ),
    Rule(
        "take the largest magnitude",
        ("$index = $stack.abs().argmax(dim=0, keepdim=True)\n$value = $stack.gather(0, $index).squeeze(0)",),
        1.5,
    ),
    Rule(
        "average the nonzero entries",
        ("$count = ($stack != 0).sum(dim=0).clamp(min=1)\n$value = $stack.sum(dim=0) / $count",),
        2.0,
    ),
    Rule(
        "weigh by sign agreement",
        (
            "$agree = torch.sign($stack).mean(dim=0).abs()\n$value = $agree * $stack.<<mean|sum>>(dim=0)",
            "$agree = torch.sign($stack).mean(dim=0).abs()\n"
            "$value = torch.where($agree > <<0.3:0.9>>, $stack.sum(dim=0), $stack.mean(dim=0))",
        ),
        1.5,
    ),
    Rule(
        "gate by signal to noise",
        (
            "$mean = $stack.mean(dim=0)\n$std = ($stack - $mean).abs().mean(dim=0) + 1e-8\n"
            "$value = $mean * torch.tanh(<<0.3:1.5>> * $mean.abs() / $std)",
        ),
    ),
    Rule(
        "keep the signed root mean square",
        (
            "$sign = torch.sign($stack.sum(dim=0))\n$value = $sign * $stack.pow(2).mean(dim=0).sqrt()",
            "$sign = torch.sign($stack.sum(dim=0))\n$value = $sign * $stack.abs().mean(dim=0)",
        ),
    ),
    Rule(
        "start from one source and add the others",
        (
            "$value = <<0.3:1.2>> * $stack[<<0|-1>>] + <<0.2:1.0>> * $stack.mean(dim=0)",
            "$value = <<0.3:1.2>> * $stack[0] + <<0.1:0.9>> * $stack[1:].sum(dim=0)",
        ),
        1.5,
    ),
    Rule(
        "combine the extremes",
        ("$value = <<0.2:0.8>> * ($stack.amax(dim=0) + $stack.amin(dim=0))",),
        0.6,
    ),
)

# Stack (sources, values) -> value: one weight per source.
FLAT_REDUCE_RULES: tuple[Rule, ...] = (
    Rule(
        "weigh by cosine similarity to the mean",
        (
            "$mean = $stack.mean(dim=0, keepdim=True)\n$sims = torch.cosine_similarity($stack, $mean, dim=1)\n"
            "$weights = torch.softmax(<<1:8#>> * $sims, dim=0)\n$value = $weights @ $stack",
            "$mean = $stack.mean(dim=0, keepdim=True)\n$sims = torch.cosine_similarity($stack, $mean, dim=1)\n"
            "$weights = torch.relu($sims)\n$value = $weights @ $stack / ($weights.sum() + 1e-8)",
        ),
        2.0,
    ),
    Rule(
        "weigh by norm",
        (
            "$norms = $stack.norm(dim=1)\n$weights = $norms / ($norms.sum() + 1e-8)\n$value = $weights @ $stack",
            "$norms = $stack.norm(dim=1)\n"
            "$weights = torch.softmax(<<-4:4#>> * $norms / ($norms.mean() + 1e-8), dim=0)\n$value = $weights @ $stack",
        ),
        2.0,
    ),
    Rule(
        "weigh by inverse norm",
        ("$weights = 1 / ($stack.norm(dim=1) + 1e-8)\n$value = $weights @ $stack / $weights.sum()",),
    ),
    Rule(
        "restore the average norm",
        ("$mean = $stack.mean(dim=0)\n$value = $mean * $stack.norm(dim=1).<<mean|max|min>>() / ($mean.norm() + 1e-8)",),
        1.5,
    ),
)

# Value of the sources so far ($value) and the next source ($delta) -> $value.
FOLD_RULES: tuple[Rule, ...] = (
    Rule("add the next one", ("$value = $value + <<0.1:1.0>> * $delta",), 3.0),
    Rule("blend step by step", ("$value = <<0.4:0.9>> * $value + <<0.2:0.8>> * $delta",), 1.5),
    Rule(
        "add where the signs agree",
        (
            "$mask = torch.sign($value) == torch.sign($delta)\n$value = $value + <<0.3:1.0>> * $mask * $delta",
            "$mask = $value * $delta > 0\n$value = torch.where($mask, $value + $delta, <<0.3:1.0>> * $value)",
        ),
        2.0,
    ),
    Rule(
        "keep the larger entry",
        ("$mask = $delta.abs() > $value.abs()\n$value = torch.where($mask, <<0.5:1.0>> * $delta, $value)",),
        1.5,
    ),
    Rule(
        "add the orthogonal part",
        (
            "$dot = ($delta * $value).sum() / ($value.pow(2).sum() + 1e-8)\n"
            "$value = $value + <<0.2:1.0>> * ($delta - $dot * $value)",
        ),
        1.5,
    ),
    Rule(
        "add in proportion to the similarity",
        (
            "$sims = ($delta * $value).sum() / ($value.norm() * $delta.norm() + 1e-8)\n"
            "$value = $value + (<<0.3:1.0>> <<-|+>> <<0.1:0.5>> * $sims) * $delta",
        ),
    ),
    Rule(
        "match norms",
        ("$value = $value + <<0.2:1.0>> * $delta * $value.norm() / ($delta.norm() + 1e-8)",),
    ),
)

# Helper functions of one tensor; the name is bound to the first line.
HELPERS: tuple[Rule, ...] = (
    Rule(
        "trim",
        (
            "def trim(x):\n    cut = x.abs().flatten().quantile(<<0.1:0.9>>)\n    return x * (x.abs() >= cut)",
            "def trim(x):\n    return x * (x.abs() > <<0.2:1.5>> * x.std())",
        ),
        2.0,
    ),
    Rule(
        "soften",
        (
            "def soften(x):\n    limit = <<0.5:3.0>> * x.std() + 1e-8\n    return limit * torch.tanh(x / limit)",
            "def soften(x):\n    cut = <<0.1:0.8>> * x.abs().mean()\n"
            "    return torch.sign(x) * torch.relu(x.abs() - cut)",
        ),
    ),
    Rule(
        "low_rank",
        (
            "def low_rank(x):\n    if x.dim() != 2:\n        return x\n"
            "    u, s, v = torch.linalg.svd(x, full_matrices=False)\n"
            "    rank = max(1, int(<<0.1:0.9>> * len(s)))\n"
            "    return (u[:, :rank] * s[:rank]) @ v[:rank]",
        ),
    ),
    Rule("unit", ("def unit(x):\n    return x / (x.norm() + 1e-8) * <<0.3:1.5>>",), 0.5),
)

# One weight per source, defined before the loop; `zip` with the sources follows, so any number of sources works.
SOURCE_WEIGHTS: tuple[Rule, ...] = (
    Rule("fixed weights", ("$weights = [<<0.0:1.0>>, <<0.0:1.0>>, <<0.0:1.0>>]",), 5.0),
    Rule("decaying weights", ("$weights = [<<0.3:0.9>> ** i for i in range(len(task_vectors))]",)),
    Rule("growing weights", ("$weights = [<<0.1:0.4>> * (i + 1) for i in range(len(task_vectors))]",)),
    Rule("favour the first", ("$weights = [<<0.3:1.0>>] + [<<0.1:0.6>>] * (len(task_vectors) - 1)",)),
    Rule(
        "weights from the global norms",
        (
            "$norms = [sum($tv[k].float().pow(2).sum() for k in $tv) for $tv in task_vectors]\n"
            "$weights = [x / (sum($norms) + 1e-8) for x in $norms]",
            "$norms = [sum($tv[k].float().abs().sum() for k in $tv) for $tv in task_vectors]\n"
            "$weights = [<<0.2:0.8>> * min($norms) / (x + 1e-8) for x in $norms]",
        ),
        0.7,
    ),
)

# The factor of the final line: ("set-up inside the loop", "expression"); an empty expression means no factor.
LAYER = '$found = re.search(r"layers\\.(\\d+)", $name)\n$layer = int($found.group(1)) if $found else 0\n'
SCALES: tuple[Rule, ...] = (
    Rule("", ("",), 2.0),
    Rule("constant", ("<<0.1:1.5>>",), 4.0),
    Rule("named", ("$scale = <<0.1:1.5>>",), 2.0),
    Rule(
        "by name",
        (
            '$scale = <<0.1:1.5>> if "<<mlp|attn|norm|embed|down_proj|q_proj>>" in $name else <<0.1:1.2>>',
            '$scale = <<0.1:1.5>> if "mlp" in $name or "<<norm|embed>>" in $name else <<0.1:1.2>>',
            'if "mlp" in $name:\n    $scale = <<0.1:1.5>>\nelif "attn" in $name:\n    $scale = <<0.1:1.5>>\n'
            "else:\n    $scale = <<0.1:1.0>>",
        ),
        3.0,
    ),
    Rule("by shape", ("$scale = <<0.1:1.5>> if $value.dim() == 2 else <<0.1:1.0>>",), 0.7),
    Rule(
        "by layer",
        (
            LAYER + "$scale = min(<<0.8:1.5>>, <<0.1:0.6>> + <<0.05:0.2>> * $layer)",
            LAYER + "$scale = <<0.3:1.5>> * <<0.5:0.95>> ** $layer",
            LAYER + "$scale = <<0.3:1.5>> if $layer < <<1:3#>> else <<0.1:1.2>>",
            LAYER + "$scale = <<0.3:1.2>> if $layer % 2 == <<0|1>> else <<0.1:0.8>>",
        ),
        2.0,
        needs=("re",),
    ),
)

# Naming habits: canonical role -> name. Few and fixed, so that a small model carries a name through a program.
HABITS: tuple[dict[str, str], ...] = (
    {},
    {"tv": "vec", "merged": "result", "value": "update", "stack": "deltas", "scale": "factor", "weights": "coefs"},
    {"name": "key", "merged": "out", "value": "x", "stack": "group", "cut": "threshold", "mask": "keep_mask"},
)
HABIT_WEIGHTS: tuple[int, ...] = (6, 2, 2)
