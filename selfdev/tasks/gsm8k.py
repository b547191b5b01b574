"""GSM8K (Cobbe et al., arXiv 2110.14168): a frozen five-shot prefix for search, lm-eval's own shots for reports.

The five worked problems are the project's own (prompts/tasks/gsm8k-5shot.json). Under `protocol = "lm-eval"` the
prompts are those of lm-eval 0.4.13's task `gsm8k` 3.0: five train rows, drawn for each test row by its position in the
file. So a file with some rows of the test split taken out gives other shots than the whole, as it would in lm-eval.
"""

from __future__ import annotations

from selfdev.config import TaskConfig
from selfdev.errors import UsageError
from selfdev.grading.gsm8k import extract_strict
from selfdev.tasks.benchmark import Benchmark
from selfdev.tasks.rows import Fields
from selfdev.tasks.shots import Layout, read_shots

HUB_ID = "openai/gsm8k"
FIELDS = Fields(("question",), "answer")
LAYOUT = Layout("Question: ", "\nAnswer:")
STOP = ("Question:", "</s>", "<|im_end|>")  # lm-eval 0.4.13
MAX_NEW_TOKENS = 256  # lm-eval 0.4.13
SHOTS = 5
SHOTS_FILE = "tasks/gsm8k-5shot.json"
GRADERS = ("gsm8k-strict", "gsm8k-flexible")


def benchmark(config: TaskConfig) -> Benchmark:
    """GSM8K as a configuration asks for it.

    Raises:
        UsageError: settings that exclude one another.
        DataError: the worked problems cannot be read.
    """
    count = SHOTS if config.shots is None else config.shots
    lm_eval = config.protocol == "lm-eval"
    if lm_eval and config.shots_file is not None:
        raise UsageError("lm-eval draws the shots of gsm8k from the train rows; leave out shots_file or take search")
    if lm_eval and config.dev_from == "train":
        raise UsageError("lm-eval draws the shots of gsm8k from the train rows, so dev must come from test")
    return Benchmark(
        name="gsm8k",
        fields=FIELDS,
        layout=LAYOUT,
        shots=() if lm_eval else read_shots(config.shots_file or SHOTS_FILE, count),
        sampled_shots=count if lm_eval else 0,
        stop=STOP,
        max_new_tokens=MAX_NEW_TOKENS,
        lacks=lacks,
        graders=GRADERS if config.grader is None else (config.grader,),
        protocol=f"lm-eval 0.4.13 gsm8k 3.0, {count} shots" if lm_eval else f"search, {count} shots",
        hub_id=HUB_ID,
        hub_configs=("main",),
    )


def lacks(answer: str) -> str | None:
    """Every published solution ends in `#### N`; without it the data are something else."""
    return "the answer does not end in '#### N'" if extract_strict(answer) is None else None
