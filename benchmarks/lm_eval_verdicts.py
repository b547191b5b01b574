"""lm-eval's own verdicts, from its own code and task files. Runs inside an environment that has lm-eval 0.4.13.

The functions are served by a scorer process (`selfdev.grading.scorer`), so that what hangs lm-eval can be killed;
`compare_grading.py` starts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

INVALID = "[invalid]"  # what lm-eval's regex filter gives where it finds nothing


class Documents(list[dict[str, Any]]):
    """As much of a data set as `process_docs` of lm-eval's tasks needs."""

    def map(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> Documents:
        return Documents(function(row) for row in self)


def gsm8k_functions() -> dict[str, Callable[..., Any]]:
    """What is asked of lm-eval for its task gsm8k."""
    import lm_eval.filters
    import lm_eval.tasks  # noqa: F401

    return {"verdicts": gsm8k, "versions": versions}


def math_functions() -> dict[str, Callable[..., Any]]:
    """What is asked of lm-eval for its MATH tasks; fails where lm-eval's extra `math` is not installed."""
    import lm_eval.tasks.hendrycks_math.utils
    import lm_eval.tasks.minerva_math.utils  # noqa: F401

    return {"verdicts": math, "versions": versions}


def versions() -> dict[str, str]:
    """What is installed of the packages that verdicts depend on."""
    installed = {}
    for name in ("lm-eval", "math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def gsm8k(reference: str, completion: str) -> dict[str, Any]:
    """Per filter of task gsm8k: [the normalised extract or None, verdict]."""
    import yaml
    from lm_eval import tasks
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters import build_filter_ensemble

    task = yaml.safe_load((Path(tasks.__file__).parent / "gsm8k" / "gsm8k.yaml").read_text(encoding="utf-8"))
    metric = {k: v for k, v in task["metric_list"][0].items() if k not in ("metric", "aggregation", "higher_is_better")}
    verdicts = {}
    for row in task["filter_list"]:
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in row["filter"]]
        request = Instance(request_type="generate_until", doc={"answer": reference}, arguments=("", {}), idx=0)
        request.resps = [completion]
        build_filter_ensemble(row["name"], steps).apply([request])
        extract = request.filtered_resps[row["name"]]
        score = exact_match_fn(predictions=[extract], references=[reference], **metric)["exact_match"]
        verdicts[row["name"].split("-")[0]] = [_normalised(extract, metric["regexes_to_ignore"]), bool(score == 1)]
    return verdicts


def _normalised(extract: str, ignored: list[str]) -> str | None:
    if extract == INVALID:
        return None
    for pattern in ignored:
        extract = re.sub(pattern, "", extract)
    return extract.lower()


def math(reference: str, completion: str) -> dict[str, bool]:
    """Verdicts of minerva_math (both metrics) and hendrycks_math."""
    from lm_eval.tasks.hendrycks_math import utils as hendrycks
    from lm_eval.tasks.minerva_math import utils as minerva

    rows = Documents([{"problem": "", "solution": reference}])
    scores = minerva.process_results(minerva.process_docs(rows)[0], [completion])
    plain = hendrycks.process_results(hendrycks.process_docs(rows)[0], [completion])
    return {
        "minerva": bool(scores["exact_match"]),
        "verify": bool(scores["math_verify"]),
        "hendrycks": bool(plain["exact_match"]),
    }
