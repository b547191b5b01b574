"""The run configuration: defaults < preset or TOML file < command-line flags; an unknown key fails.

A resolved `RunConfig` is frozen, saved as JSON in the run directory (hand-written files are TOML, machine-written ones
JSON) and decides everything about a run: the same resolved configuration gives the same store, row for row.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from selfdev.errors import UsageError

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
SectionT = TypeVar("SectionT", bound="Section")
ModelRef = Annotated[str, StringConstraints(min_length=1)]
VerifierName = Literal["likelihood", "true-false", "quality", "implicit-reward", "majority"]
MEASURED_FROM_THE_START = ("likelihood", "true-false", "quality")  # with a U_v in every iteration


class Section(BaseModel):
    """A frozen table of the configuration; unknown keys and wrong types fail."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelsConfig(Section):
    """What is merged. References: `zoo:NAME`, `smollm2`, a directory, or a hub id."""

    seed: ModelRef = "zoo:solver-seed"
    sources: Annotated[tuple[ModelRef, ...], Field(min_length=1, max_length=16)] = ()
    scope: Literal["all", "mlp"] | tuple[str, ...] = "all"  # which parameters: all, the MLPs (paper), or glob patterns
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # Where task vectors lie and merge programs run: beside the engine, or in main memory (slower, for small devices).
    merge_on: Literal["device", "host"] = "device"


class TaskConfig(Section):
    """What the merged models are asked. Settings that a task does not have are refused when it is loaded."""

    name: Literal["arithmetic", "gsm8k", "hendrycks_math", "jsonl"] = "arithmetic"
    data: str | None = None  # test rows: .jsonl, .jsonl.gz or .parquet; None: generated (arithmetic) or the hub
    train_data: str | None = None  # train rows, likewise: for dev_from, lm-eval's shots, to look for near-duplicates
    # The split that dev is drawn from (paper: test); test questions always come from test. None: train where dev is
    # drawn anew in each iteration and the task has a train split, else test.
    dev_from: Literal["test", "train"] | None = None
    dev_size: PositiveInt = 100  # of one block: what one iteration asks
    test_size: PositiveInt | Literal["rest"] = 1000  # rest: every question that is not in dev
    subjects: tuple[str, ...] = ()  # hendrycks_math: these only; none: all seven
    dev_subjects: tuple[str, ...] = ()  # hendrycks_math: dev has equally many of each of these; none: of `subjects`
    grader: str | None = None  # None: the task's own; see `selfdev grade --help`
    protocol: Literal["search", "lm-eval"] = "search"  # one frozen few-shot prefix, or lm-eval 0.4.13's exact prompts
    chat_template: bool = False  # wrap each prompt, few-shot prefix included, as one user message
    shots: Annotated[int, Field(ge=0)] | None = None  # worked problems before a question; None: the task's number
    shots_file: str | None = None  # worked problems: JSON list with question and answer; None: the task's own
    question_fields: tuple[str, ...] = ()  # jsonl: joined by a blank; dots reach into objects; none: question
    answer_field: str | None = None  # jsonl; None: answer


class DevConfig(Section):
    """Which dev questions an iteration asks."""

    # iteration: every iteration asks its own block, and the best of all meet the baselines on one more; fixed (paper):
    # all ask the same, so that later programs were bred on the questions they are scored on
    resample: Literal["iteration", "fixed"] = "iteration"
    finalists: PositiveInt = 5  # of each iteration, for that last block
    fresh: bool = False  # one block instead, of questions that a run without this setting asks nowhere: for transfers


class RaceConfig(Section):
    """Which candidates get more questions; see `selfdev.race`."""

    enabled: bool = True  # False (paper): every candidate answers every question
    block: PositiveInt | None = None  # questions per candidate and round; None: from the measured cost of a swap
    held_out: Share = 0.3  # of the questions: for estimates of the finalists, seen by no decision of the race
    keep: PositiveInt = 15  # candidates that stay at least, and that are estimated at most
    budget: PositiveInt | None = None  # question-evaluations per iteration; None: until the race is decided
    alpha: Share = 0.1  # chance of ever dropping one that is as good as the seed, or one of the `keep` best
    cache_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3  # of main memory, for merged task vectors between rounds


class EvaluateConfig(Section):
    """How questions are answered; decoding is greedy."""

    engine: Literal["transformers", "vllm"] = "transformers"
    batch_size: PositiveInt = 128
    max_new_tokens: PositiveInt | None = None  # None: the task's own limit
    max_truncated: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # a larger share of cut answers: scored, not ranked


class GenerateConfig(Section):
    """How merge programs are sampled."""

    engine: Literal["transformers", "vllm"] = "transformers"
    model: ModelRef = "zoo:generator"
    prompt: str = "generator/merge.md.jinja"  # below prompts/
    chat_template: bool = False  # wrap the prompt as a user message (instruct models)
    samples: PositiveInt = 96  # per iteration
    batch_size: PositiveInt = 32
    max_new_tokens: PositiveInt = 256
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.2  # of iteration 1
    decay: Annotated[float, Field(ge=0.0)] = 0.2  # T_t = temperature / (1 + decay (t - 1))
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class SandboxConfig(Section):
    """Limits of one merge program."""

    seconds: Annotated[float, Field(gt=0.0)] = 10.0
    operations: PositiveInt | None = None  # tensor operations; None: 20,000, or 150 per tensor of the sources if more
    allow_missing: tuple[str, ...] = ()  # isolation layers this machine may lack; recorded in the store


class VllmConfig(Section):
    """The engine of `evaluate.engine` or `generate.engine` = vllm. How many sequences run at once is `batch_size`."""

    kv_cache_bytes: PositiveInt | None = None  # None: as the next key says on CUDA, 2 GiB on CPU
    gpu_memory_utilization: Share = 0.9  # of the memory that is free when the engine starts; CUDA
    max_model_len: PositiveInt | None = None  # longest prompt and completion in tokens; at most, and None: the model's
    enforce_eager: bool = False  # CUDA without graphs: starts sooner, answers more slowly


class PairConfig(Section):
    """Which programs teach the generator (paper section 3.2: top 3 %, bottom 10 %, earlier top 3)."""

    chosen_share: Share = 0.03
    rejected_share: Share = 0.10
    elites: Annotated[int, Field(ge=0)] = 3  # best of each earlier iteration, added to the chosen side
    failures: Literal["exclude", "reject"] = "exclude"  # may a program that failed be the rejected side
    max_pairs: PositiveInt = 1000
    # confident: only pairs that the questions both answered tell apart; paper: scores decide
    rule: Literal["paper", "confident"] = "paper"
    min_evidence: Annotated[float, Field(ge=1.0)] = 20.0  # of rule confident: least e-value for "chosen is better"
    max_appearances: PositiveInt | None = None  # most pairs that one program may be in; None: no bound


class TrainConfig(Section):
    """DPO with LoRA (TRL). Paper: beta 0.01, learning rate 1e-6, rank 256."""

    beta: Annotated[float, Field(gt=0.0)] = 0.01
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-6
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    max_steps: PositiveInt | None = None  # None: by epochs
    batch_size: PositiveInt = 8  # pairs per optimiser step
    gradient_accumulation: PositiveInt = 1  # parts a batch is cut into, to save memory
    gradient_checkpointing: bool = False  # recompute activations, to save memory
    lora_rank: PositiveInt = 256
    lora_alpha: PositiveInt = 512


class GapConfig(Section):
    """Solver-verifier gap (arXiv 2507.00075 section 3)."""

    n: PositiveInt = 16  # samples the verifier selects from
    # U_s and U_v are measured on samples of their own, drawn at one temperature in every iteration: the schedule of
    # generate.temperature moves both without any learning. 0: on the iteration's programs, and no fit under a schedule
    samples: Annotated[int, Field(ge=0)] = 64
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    # Measured points inside each DPO stage, each of `samples` further samples. 1 makes two measurements per iteration,
    # as in the paper: six points in three iterations, the fewest from which on a fit can be tested. 0: iterations only
    checkpoints: Annotated[int, Field(ge=0, le=50)] = 1
    # What scores the samples; see `selfdev.verifiers.base`. The first one's curve is what stop advice looks at.
    verifiers: Annotated[tuple[VerifierName, ...], Field(min_length=1)] = ("likelihood", "implicit-reward")
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # scores below are dropped before the selection for U_v
    model: ModelRef | None = None  # of true-false and quality; None: the generator as it wrote the samples
    chat_template: bool = False  # of true-false and quality: ask as a user message
    grades: Literal["A-E", "1-10"] = "A-E"  # of quality; a tokenizer may not tell 1 and 10 apart
    resamples: Annotated[int, Field(ge=100)] = 2000  # of the bootstrap
    confidence: Share = 0.95  # of every interval
    stop_when_converged: bool = False  # end after an iteration when the fitted curve, or the alarm, advises to stop

    @property
    def inside(self) -> int:
        """Measured points inside a DPO stage: none without samples of their own, as no program is written there."""
        return self.checkpoints if self.samples > 1 else 0

    @property
    def drawn(self) -> int:
        """Samples for measurement that an iteration draws, at most."""
        return self.samples * (1 + self.inside)


class CrossConfig(Section):
    """Cross-improvement (arXiv 2507.00075 section 5): human-designed merges as chosen programs."""

    # all in the first iteration, equally in each, all in the one at 80 % (of three, the last)
    schedule: Literal["none", "early", "uniform", "late"] = "none"
    pairs: PositiveInt = 30  # external pairs of the whole run, by whatever schedule; at most pair.max_pairs


class RunConfig(Section):
    """Everything that decides a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    iterations: PositiveInt = 3
    device: str = "auto"  # auto: cuda if there is one, else cpu
    threads: PositiveInt = 2  # CPU threads of torch
    models: ModelsConfig = ModelsConfig(sources=("zoo:solver-add", "zoo:solver-sub", "zoo:solver-mul"))
    task: TaskConfig = TaskConfig()
    dev: DevConfig = DevConfig()
    race: RaceConfig = RaceConfig()
    generate: GenerateConfig = GenerateConfig()
    sandbox: SandboxConfig = SandboxConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    vllm: VllmConfig = VllmConfig()
    pair: PairConfig = PairConfig()
    train: TrainConfig = TrainConfig()
    gap: GapConfig = GapConfig()
    cross: CrossConfig = CrossConfig()

    @property
    def blocks(self) -> int:
        """Blocks of dev questions: one, or one per iteration behind block 0 of baselines and finals."""
        return 1 if self.dev.resample == "fixed" else self.iterations + 1

    def block_of(self, iteration: int) -> int:
        """The block of dev questions that an iteration asks; 0 is the baselines'."""
        return 0 if self.dev.resample == "fixed" or self.dev.fresh else iteration

    @model_validator(mode="after")
    def _sources_differ(self) -> RunConfig:
        sources = self.models.sources
        if len(set(sources)) != len(sources):
            raise ValueError("models.sources names one model twice; each source counts once")
        return self

    @model_validator(mode="after")
    def _stop_can_be_decided(self) -> RunConfig:
        if not self.gap.stop_when_converged:
            return self
        if self.iterations < 4:
            raise ValueError(
                f"gap.stop_when_converged needs iterations of 4 or more, got {self.iterations}: a decision needs three "
                "measured iterations, and one that it can save"
            )
        if not set(self.gap.verifiers) & set(MEASURED_FROM_THE_START):
            raise ValueError(
                f"gap.stop_when_converged needs one of {', '.join(MEASURED_FROM_THE_START)} in gap.verifiers, got "
                f"{', '.join(self.gap.verifiers)}: no other has a U_v in iteration 1"
            )
        if self.gap.samples < 2 and self.generate.decay > 0:
            raise ValueError(
                f"gap.stop_when_converged with gap.samples {self.gap.samples} and generate.decay "
                f"{self.generate.decay:g}: U_s and U_v of the programs follow the temperature schedule; set "
                "gap.samples to 2 or more (default 64), or generate.decay to 0"
            )
        return self

    @model_validator(mode="after")
    def _external_pairs_come_in(self) -> RunConfig:
        if self.gap.stop_when_converged and self.cross.schedule in ("uniform", "late"):
            raise ValueError(
                f"gap.stop_when_converged may end the run before the external pairs of cross.schedule "
                f"{self.cross.schedule} have come in; use early, or leave one of them out"
            )
        if self.cross.schedule != "none" and self.cross.pairs > self.pair.max_pairs:
            raise ValueError(
                f"cross.pairs {self.cross.pairs} exceeds pair.max_pairs {self.pair.max_pairs}, which one iteration may "
                "have to hold; lower the one or raise the other"
            )
        return self

    def to_json(self) -> str:
        """The resolved configuration as stable JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(p.name[:-5] for p in resources.files("selfdev.presets").iterdir() if p.name.endswith(".toml"))


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve a configuration: defaults, then a preset or a file, then `overrides` (dotted keys).

    Raises:
        UsageError: unknown preset or key, wrong type, unreadable or malformed file.
    """
    if preset is not None and file is not None:
        raise UsageError("both --preset and --config are given; allowed is one of them")
    if file is not None:
        values = _read_toml(file)
    else:
        values = _read_preset(preset or "demo")
    for key, value in (overrides or {}).items():
        _assign(values, key, value)
    try:
        return RunConfig.model_validate_json(json.dumps(values, default=str))  # TOML dates become text and are refused
    except ValidationError as error:
        raise UsageError(_describe(error)) from None


def section_from(section: type[SectionT], table: str, /, **values: Any) -> SectionT:
    """One table of the configuration from plain values, for commands that need no whole one.

    Raises:
        UsageError: a value that the table does not allow; the key is named as TABLE.KEY.
    """
    try:
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError(_describe(error, table)) from None


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["train.beta=0.1", "models.scope=mlp"]` -> {"train.beta": 0.1, "models.scope": "mlp"}; values: TOML or text."""
    parsed: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set got {text!r}; allowed is KEY=VALUE, for example --set train.beta=0.05")
        parsed[key.strip()] = _parse_value(value.strip())
    return parsed


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys in which two resolved configurations differ, as `key: old -> new`."""
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return found


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read_preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"unknown preset {name!r}; allowed: {', '.join(preset_names())}{hint}")
    return tomllib.loads((resources.files("selfdev.presets") / f"{name}.toml").read_text("utf-8"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"{dotted} does not exist: {parent} is a value, not a table")
    table[last] = value


def _describe(error: ValidationError, *inside: str) -> str:
    errors = error.errors()
    first, where = errors[0], _dotted((*inside, *errors[0]["loc"]))
    same = [e for e in errors if _dotted((*inside, *e["loc"])) == where]  # one for each kind of value that it may have
    given = repr(first["input"])
    if len(given) > 80:
        given = given[:77] + "..."
    more = f" (and {len(errors) - len(same)} more)" if len(errors) > len(same) else ""
    if first["type"] == "extra_forbidden":
        return f"unknown configuration key {where!r}{_suggest(where)}{more}"
    message = " or ".join(dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in same))
    return f"configuration key {where!r} got {given}: {message}{more}" if where else f"configuration: {message}{more}"


def _dotted(path: Sequence[str | int]) -> str:
    """A place in the configuration, without the names of the kinds of values that it may have."""
    kinds = ("literal[", "tuple[", "constrained-")
    return ".".join(str(part) for part in path if not str(part).startswith(kinds))


def _suggest(dotted: str) -> str:
    close = difflib.get_close_matches(dotted, known_keys(), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; `selfdev config` prints the allowed ones"


def known_keys() -> list[str]:
    """Every dotted key a configuration may set."""
    keys: list[str] = []
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{key}" for key in section.model_fields]
        else:
            keys.append(name)
    return keys
