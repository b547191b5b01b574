"""A user's own questions: rows with a question and an answer, and a choice of grader.

Fields are named in the configuration (several are joined by a blank: SVAMP has Body and Question). Without a file of
worked problems the questions are asked plain; `shots_file` puts some in front.
"""

from __future__ import annotations

from selfdev.config import TaskConfig
from selfdev.errors import UsageError
from selfdev.tasks import gsm8k, hendrycks_math
from selfdev.tasks.benchmark import Benchmark
from selfdev.tasks.rows import Fields
from selfdev.tasks.shots import read_shots

GRADER = "number"
MAX_NEW_TOKENS = 256


def benchmark(config: TaskConfig) -> Benchmark:
    """Own data as a configuration asks for it.

    Raises:
        UsageError: settings that exclude one another, or shots without a file.
        DataError: the worked problems cannot be read.
    """
    if config.protocol == "lm-eval":
        raise UsageError("lm-eval has no task for own data; leave out protocol, or take gsm8k or hendrycks_math")
    if config.shots and config.shots_file is None:
        raise UsageError(f"{config.shots} shots asked for and no file of worked problems given; set task.shots_file")
    shots = () if config.shots_file is None else read_shots(config.shots_file, config.shots)
    grader = config.grader or GRADER
    return Benchmark(
        name="jsonl",
        fields=Fields(config.question_fields or ("question",), config.answer_field or "answer"),
        layout=gsm8k.LAYOUT,
        shots=shots,
        sampled_shots=0,
        stop=gsm8k.STOP,
        max_new_tokens=hendrycks_math.SEARCH_TOKENS if grader.startswith("math") else MAX_NEW_TOKENS,
        graders=(grader,),
        protocol=f"search, {len(shots)} shots",
    )
