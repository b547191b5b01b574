r"""MATH (Hendrycks et al., arXiv 2103.03874): seven subjects, boxed answers, dev stratified by subject.

A search asks behind a frozen prefix of the project's own worked problems, which end in `\boxed{...}` and in the closing
sentence that minerva_math looks for: "math", "math-minerva" and "math-verify" can all read such an answer
("math-hendrycks" takes what lies between the first and the last dollar sign, so a worked solution seldom passes).
`protocol = "lm-eval"` gives the prompts of lm-eval 0.4.13: `hendrycks_math*` 1.0 (no shots) where the grader is
"math-hendrycks", else `minerva_math*` 3.1, whose four fixed worked problems are rows of MATH and therefore not shipped:
`shots_file` names a copy of them, whose hash is checked.
"""

from __future__ import annotations

from selfdev.config import TaskConfig
from selfdev.errors import DataError, UsageError
from selfdev.prompting import text_hash
from selfdev.tasks.benchmark import Benchmark
from selfdev.tasks.rows import Fields, Row
from selfdev.tasks.shots import Layout, Shot, read_shots

HUB_ID = "EleutherAI/hendrycks_math"
SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
FIELDS = Fields(("problem",), "solution", "type")
MINERVA = Layout("Problem:\n", "\n\nSolution:")
HENDRYCKS = Layout("Problem: ", "\nAnswer:")
STOP = ("Problem:",)  # both tasks of lm-eval 0.4.13
LM_EVAL_TOKENS = 256  # its default, which both tasks keep
SEARCH_TOKENS = 512  # at 256 many worked solutions are cut off before their answer
SHOTS = 5
SHOTS_FILE = "tasks/math-5shot.json"
GRADERS = ("math", "math-minerva", "math-verify", "math-hendrycks")
MINERVA_SHOTS = 4
MINERVA_HASH = "57164f1d8a2f4b6c5e0aa036b5c048c81b16bfe8568f2aafd016e76bc69c000f"  # of the four, rendered
MINERVA_COMMAND = (
    'python -c "import json; from lm_eval.tasks.minerva_math.utils import list_fewshot_samples as shots; '
    "json.dump(shots(), open('minerva.json', 'w'))\""
)


def benchmark(config: TaskConfig) -> Benchmark:
    """MATH as a configuration asks for it.

    Raises:
        UsageError: unknown subjects, or settings that exclude one another.
        DataError: worked problems that are missing, or not those of lm-eval.
    """
    subjects = _subjects("subjects", config.subjects, SUBJECTS)
    groups = _subjects("dev_subjects", config.dev_subjects, subjects)
    layout, shots, tokens, protocol = _protocol(config)
    return Benchmark(
        name="hendrycks_math",
        fields=FIELDS,
        layout=layout,
        shots=shots,
        sampled_shots=0,
        stop=STOP,
        max_new_tokens=tokens,
        graders=_graders(config),
        lacks=lacks,
        protocol=protocol,
        hub_id=HUB_ID,
        hub_configs=subjects,
        subjects=subjects,
        dev_groups=groups,
        subject=subject,
    )


def lacks(solution: str) -> str | None:
    """Every published solution boxes its answer; without a box the data are something else."""
    boxed = "\\boxed" in solution or "\\fbox" in solution
    return None if boxed else "the solution has no \\boxed{}"


def subject(row: Row) -> str:
    """`Counting & Probability` -> `counting_and_probability`.

    Raises:
        DataError: a type that MATH does not have.
    """
    key = row.subject.strip().lower().replace("&", "and").replace(" ", "_")
    if key not in SUBJECTS:
        raise DataError(f"{row.place}: unknown type {row.subject!r}; allowed: {', '.join(SUBJECTS)}")
    return key


def _subjects(name: str, given: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The given ones in the order of `allowed`, so that the order of a setting changes nothing; all for none given."""
    unknown = [subject for subject in given if subject not in allowed]
    if unknown:
        raise UsageError(f"task.{name} names {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return tuple(subject for subject in allowed if subject in given) or allowed


def _graders(config: TaskConfig) -> tuple[str, ...]:
    if config.grader is not None:
        return (config.grader,)
    return GRADERS if config.protocol == "search" else ("math-minerva", "math-verify")


def _protocol(config: TaskConfig) -> tuple[Layout, tuple[Shot, ...], int, str]:
    if config.protocol == "search":
        count = SHOTS if config.shots is None else config.shots
        shots = read_shots(config.shots_file or SHOTS_FILE, count)
        return MINERVA, shots, SEARCH_TOKENS, f"search, {count} shots"
    if config.grader == "math-hendrycks":
        if config.shots or config.shots_file:
            raise UsageError("lm-eval's hendrycks_math is asked without shots; leave out shots and shots_file")
        return HENDRYCKS, (), LM_EVAL_TOKENS, "lm-eval 0.4.13 hendrycks_math 1.0, 0 shots"
    count = MINERVA_SHOTS if config.shots is None else config.shots
    shots = _minerva_shots(config.shots_file)[:count] if count else ()
    if count > MINERVA_SHOTS:
        raise UsageError(f"lm-eval's minerva_math has {MINERVA_SHOTS} worked problems; {count} shots were asked for")
    return MINERVA, shots, LM_EVAL_TOKENS, f"lm-eval 0.4.13 minerva_math 3.1, {count} shots"


def _minerva_shots(file: str | None) -> tuple[Shot, ...]:
    if file is None:
        raise DataError(
            "the four worked problems of lm-eval's minerva_math are rows of MATH and not shipped here; write them to a "
            f"file where lm-eval is installed ({MINERVA_COMMAND}) and give it as shots_file (--shots-file)"
        )
    shots = read_shots(file)
    found = text_hash(MINERVA.prefix(shots))
    if found != MINERVA_HASH:
        raise DataError(
            f"{file} does not hold the four worked problems of lm-eval 0.4.13's minerva_math (sha256 of the rendered "
            f"prefix {found[:12]}, not {MINERVA_HASH[:12]}); make it with {MINERVA_COMMAND}"
        )
    return shots
