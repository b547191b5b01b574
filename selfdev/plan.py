"""What a run will hold on its device, phase by phase: arithmetic on a configuration.

Nothing is loaded: the sizes come from the models' config.json. Phases follow one another and give their memory back, so
what has to fit is the largest peak. GB are 10^9 bytes throughout; a card sold with 80 GB has about 85 of them, and the
difference is what is left here for fragmentation. Memory counts tensors by their shapes; activations are estimates,
marked as such. `selfdev.plan_time` estimates how long it takes. Left out: several devices, quantised weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfdev.config import RunConfig

GB = 1e9
CONTEXT_BYTES = 1e9  # a process on a CUDA device: context, kernels, cuBLAS workspaces
GRAPH_BYTES = 2e9  # vLLM: CUDA graphs and the profiled peak of its forward pass, for a 7B model
# vLLM schedules at most this many prompt tokens at once.
ENGINE_BATCHED_TOKENS = 8192
ASKING, REWARDING = ("true-false", "quality"), ("implicit-reward",)  # verifiers that need gap.model, the generator
LOGIT_BYTES = 2e9  # the scorer's bound on the float32 logits of one batch
CHARACTERS_PER_TOKEN = 3.5  # of prompts with code, English or numbers; only for texts whose tokenizer is not at hand
HEAD_CHUNK_TOKENS = 256  # TRL computes the log-probabilities of this many tokens at once
# Tokens of a prompt before its own question, and of the question, for the frozen prompts of each task.
_PROMPT_TOKENS = {"arithmetic": (0, 24), "gsm8k": (900, 110), "hendrycks_math": (700, 130)}
_OTHER_PROMPT = (0, 300)
_TASK_TOKENS = {"arithmetic": 64, "gsm8k": 256, "hendrycks_math": 512}
_OTHER_LIMIT = 512
_TEST_ROWS = {"gsm8k": 1319, "hendrycks_math": 5000}  # of the published test splits
_OTHER_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory and time depend on in a decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int  # tied ones once
    merged: int  # of them in the scope that is merged
    largest: int  # elements of the largest merged parameter
    bytes: int  # per stored parameter

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter on every linear layer but the head: rank x (inputs + outputs) each."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return rank * self.layers * widths


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one run, at most."""

    # Candidates (at most: races ask most of them less), baselines and finals on dev, and what is registered on test, in
    # units of a dev evaluation.
    evaluations: float
    rows: int  # questions per evaluation
    shared: int  # prompt tokens common to all questions
    own: int  # prompt tokens of one question
    answer: int  # token limit of an answer
    samples: int
    measured: int  # samples that the gap is measured on, at iterations and inside their training
    prompt: int  # tokens of the generator's prompt
    program: int  # token limit of a program
    pairs: int  # trained on, all epochs and iterations


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is resident."""

    what: str
    bytes: float
    host: bool = False  # in main memory


@dataclass(frozen=True, slots=True)
class Phase:
    """What is resident at the largest moment of a phase."""

    name: str
    items: tuple[Item, ...]

    @property
    def peak(self) -> float:
        """Bytes on the device."""
        return sum(item.bytes for item in self.items if not item.host)

    @property
    def host(self) -> float:
        """Bytes in main memory."""
        return sum(item.bytes for item in self.items if item.host)


@dataclass(frozen=True, slots=True)
class Plan:
    """Phases in the order of a run."""

    phases: tuple[Phase, ...]
    work: Work

    @property
    def peak(self) -> float:
        """Bytes that the device must have."""
        return max(phase.peak for phase in self.phases)


def make_plan(config: RunConfig, seed: Shape, generator: Shape, work: Work, judge: Shape | None = None) -> Plan:
    """Count what each phase holds.

    Args:
        config: the run; `evaluate`, `models`, `generate` and `train` decide the sizes.
        seed: the model that is merged into, at the dtype of `models.dtype`.
        generator: the model that writes programs, at the dtype of `generate.dtype`.
        work: see `workload`.
        judge: the model that `gap.model` names, at the same dtype; None: the generator.
    """
    phases = [_evaluate(config, seed, work), _generate(config, generator, work), _train(config, generator, work)]
    if {*ASKING, *REWARDING} & set(config.gap.verifiers):
        phases.append(_judge(config, generator, judge or generator, work))
    return Plan(tuple(phases), work)


def workload(config: RunConfig, prompt_characters: int, baselines: int) -> Work:
    """Upper bounds of a run's tokens; the lengths of task prompts are typical ones, not measured.

    Args:
        config: the run.
        prompt_characters: length of the generator's prompt.
        baselines: number of human-designed merges that are scored too.
    """
    shared, own = _PROMPT_TOKENS.get(config.task.name, _OTHER_PROMPT)
    samples = config.iterations * config.generate.samples
    dev = config.task.dev_size
    return Work(
        evaluations=baselines + samples + _fresh_blocks(config) + 3 * _test_size(config) / dev,
        rows=dev,
        shared=shared,
        own=own,
        answer=config.evaluate.max_new_tokens or _TASK_TOKENS.get(config.task.name, _OTHER_LIMIT),
        samples=samples,
        measured=config.iterations * config.gap.drawn,
        prompt=math.ceil(prompt_characters / CHARACTERS_PER_TOKEN),
        program=config.generate.max_new_tokens,
        pairs=_pairs(config),
    )


def _test_size(config: RunConfig) -> int:
    if config.task.test_size != "rest":
        return config.task.test_size
    taken = config.blocks * config.task.dev_size if _dev_from_test(config) else 0
    return max(1, _TEST_ROWS.get(config.task.name, _OTHER_ROWS) - taken)


def _dev_from_test(config: RunConfig) -> bool:
    """As `tasks.benchmark.dev_split` decides once the task is loaded."""
    task = config.task
    if task.dev_from is not None:
        return task.dev_from == "test"
    has_train = task.train_data is not None or (task.data is None and task.name in _TEST_ROWS)
    return config.blocks == 1 or not has_train


def _fresh_blocks(config: RunConfig) -> int:
    """The seed on every further block, and the best of each iteration on the baselines'."""
    return 0 if config.blocks == 1 else config.iterations * (1 + config.dev.finalists)


def _pairs(config: RunConfig) -> int:
    chosen = max(1, round(config.pair.chosen_share * config.generate.samples)) + config.pair.elites
    rejected = max(1, round(config.pair.rejected_share * config.generate.samples))
    pairs = min(config.pair.max_pairs, chosen * rejected) * config.train.epochs
    if config.train.max_steps is not None:
        pairs = config.train.max_steps * config.train.batch_size
    return config.iterations * math.ceil(pairs)


def _evaluate(config: RunConfig, seed: Shape, work: Work) -> Phase:
    """Programs run, are applied and answer in turn: of these three moments the largest counts."""
    host = config.models.merge_on == "host"
    merged = seed.merged * seed.bytes
    engine = config.evaluate.engine == "vllm"
    workspace = (len(config.models.sources) + 3) * 4 * seed.largest
    program = [
        Item("a program's result", merged, host),
        Item("a program's workspace, one parameter at a time", workspace, host),
    ]
    rows = min(config.evaluate.batch_size, work.rows)
    answer = (_engine_items if engine else _batch_items)(seed, rows, work)
    on_device = [item for item in program if not item.host]
    moment = answer if _total(answer) >= _total(on_device) else on_device
    kept = [Item("seed model", seed.parameters * seed.bytes)]
    if engine:
        kept.append(Item("engine's weights", seed.parameters * seed.bytes))
        kept[0] = replace(kept[0], host=host)
    elif host:
        kept.append(Item("seed, kept to restore from", seed.parameters * seed.bytes, host=True))
        kept.append(Item("second storage of merged parameters", merged, host=True))
    else:
        kept.append(Item("second storage of merged parameters", merged))
    kept.append(Item(f"{len(config.models.sources)} task vectors", len(config.models.sources) * merged, host))
    if engine:  # it lays its cache and graphs out at its start
        moment = [*answer, *on_device]
    hosted = [item for item in program if item.host]
    return Phase("evaluate", (*kept, *moment, *hosted, Item("CUDA context", CONTEXT_BYTES)))


def _batch_items(shape: Shape, rows: int, work: Work) -> list[Item]:
    tokens = work.shared + work.own + work.answer
    repeated = 2 * rows * tokens * shape.heads * shape.head_dim * shape.bytes if shape.heads > shape.kv_heads else 0
    return [
        Item(f"key-value cache, {rows} rows x {tokens} tokens", rows * tokens * shape.kv_bytes_per_token),
        Item("activations (estimate)", repeated + _forward_bytes(shape, rows * work.own) + rows * shape.vocabulary * 8),
    ]


def _engine_items(shape: Shape, rows: int, work: Work) -> list[Item]:
    """Shared prompt tokens are held once."""
    tokens = work.shared + rows * (work.own + work.answer)
    return [
        Item(f"key-value cache, {rows} questions at once", tokens * shape.kv_bytes_per_token),
        Item("CUDA graphs and activations (estimate)", GRAPH_BYTES + _forward_bytes(shape, ENGINE_BATCHED_TOKENS)),
    ]


def _forward_bytes(shape: Shape, tokens: int) -> float:
    """One layer without gradients: residual, norm, queries and output, and three of the MLP's width."""
    return tokens * (4 * shape.hidden + 3 * shape.intermediate) * shape.bytes


def _generate(config: RunConfig, model: Shape, work: Work) -> Phase:
    rows = min(config.generate.batch_size, max(config.generate.samples, config.gap.samples))
    tokens = work.prompt + work.program
    items = [
        Item("generator", model.parameters * model.bytes),
        Item(f"adapter, rank {config.train.lora_rank}", 4 * model.lora_parameters(config.train.lora_rank)),
    ]
    if config.generate.engine == "vllm":
        items += [
            Item("key-value cache", (work.prompt + rows * work.program) * model.kv_bytes_per_token),
            Item("CUDA graphs and activations (estimate)", GRAPH_BYTES + _forward_bytes(model, ENGINE_BATCHED_TOKENS)),
        ]
    else:
        sampling = rows * model.vocabulary * (4 + 4 + 8 + 8)  # logits, probabilities, their running sum
        items += [
            Item(f"key-value cache, {rows} rows x {tokens} tokens", rows * tokens * model.kv_bytes_per_token),
            Item("activations (estimate)", _forward_bytes(model, work.prompt) + sampling),
        ]
    return Phase("generate", (*items, Item("CUDA context", CONTEXT_BYTES)))


def _judge(config: RunConfig, generator: Shape, judge: Shape, work: Work) -> Phase:
    """Verifiers that ask a model, all loaded at once: one pass over a batch of samples behind what they share."""
    gap, names = config.gap, set(config.gap.verifiers)
    rank, readers = config.train.lora_rank, dict[tuple[str, bool], Shape]()
    if names & set(ASKING):
        readers[gap.model or config.generate.model, gap.chat_template] = judge
    if names & set(REWARDING):
        readers[config.generate.model, config.generate.chat_template] = generator
    items = []
    for (name, _), shape in readers.items():
        items.append(Item(f"verifier {name}", shape.parameters * shape.bytes))
        if name == config.generate.model:
            items.append(Item(f"its adapter, rank {rank}", 4 * shape.lora_parameters(rank)))
    rows = min(config.generate.batch_size, max(config.generate.samples, config.gap.samples))
    passes = []
    for shape in readers.values():
        few = max(1, min(rows, int(LOGIT_BYTES // (4 * work.program * shape.vocabulary))))
        logits = few * work.program * shape.vocabulary * shape.bytes + 2 * 4 * work.program * shape.vocabulary
        layer = few * (work.prompt + work.program) * shape.kv_bytes_per_token / shape.layers  # prefix and row, joined
        kept = (work.prompt + few * work.program) * shape.kv_bytes_per_token
        passes.append((kept + layer + _forward_bytes(shape, few * work.program) + logits, few))
    largest, few = max(passes)
    items.append(Item(f"one pass over {few} rows x {work.program} tokens (estimate)", largest))
    return Phase("judge", (*items, Item("CUDA context", CONTEXT_BYTES)))


def _train(config: RunConfig, model: Shape, work: Work) -> Phase:
    """DPO: a micro-batch holds the chosen and the rejected side of each of its pairs."""
    adapter = 4 * model.lora_parameters(config.train.lora_rank)  # LoRA weights are float32
    sequences = 2 * max(1, config.train.batch_size // config.train.gradient_accumulation)
    tokens = work.prompt + work.program
    return Phase(
        "train",
        (
            Item("generator", model.parameters * model.bytes),
            Item(f"adapter, rank {config.train.lora_rank}", adapter),
            Item("its gradients", adapter),
            Item("its optimiser state (AdamW)", 2 * adapter),
            Item("reference adapter, from iteration 2", adapter if config.iterations > 1 else 0),
            Item(
                f"activations, {sequences} sequences x {tokens} tokens (estimate)",
                _training_bytes(model, sequences * tokens, config.train.gradient_checkpointing),
            ),
            Item("CUDA contexts of two processes", 2 * CONTEXT_BYTES),
        ),
    )


def _training_bytes(shape: Shape, tokens: int, checkpointing: bool) -> float:
    """Per layer: ten tensors of the model's width (inputs of the linear layers, norms in float32, attention) and four
    of the MLP's are kept for the backward pass; with checkpointing only each layer's input, and one whole layer."""
    layer = tokens * (10 * shape.hidden + 4 * shape.intermediate) * shape.bytes
    kept = shape.layers * tokens * shape.hidden * shape.bytes + layer if checkpointing else shape.layers * layer
    return kept + 3 * 4 * HEAD_CHUNK_TOKENS * shape.vocabulary


def _total(items: list[Item]) -> float:
    return sum(item.bytes for item in items)


# What may be changed when it does not fit, gentlest first; `None` as the value: halve or double what is set.
_REMEDIES: Mapping[str, tuple[str, ...]] = {
    "evaluate": ("models.dtype", "evaluate.batch_size", "models.scope", "models.merge_on", "evaluate.batch_size 1"),
    "generate": ("generate.dtype", "generate.batch_size", "train.lora_rank"),
    "train": ("generate.dtype", "train.gradient_checkpointing", "train.gradient_accumulation", "train.lora_rank"),
    "judge": ("generate.dtype", "generate.batch_size", "train.lora_rank"),
}
_FEWEST_ROWS, _SMALLEST_RANK = 16, 16


def remedies(phase: str, config: RunConfig, shape: Shape) -> Iterator[tuple[str, Any]]:
    """Settings (dotted key, value) that take less memory in a phase, gentlest first; a later value of a key replaces
    the earlier one."""
    for name in _REMEDIES[phase]:
        match name:
            case "models.dtype" | "generate.dtype" if shape.bytes > 2:
                yield name, "bfloat16"
            case "evaluate.batch_size":
                yield from ((name, rows) for rows in _halved(config.evaluate.batch_size, _FEWEST_ROWS))
            case "evaluate.batch_size 1":
                yield from (("evaluate.batch_size", rows) for rows in _halved(_FEWEST_ROWS, 1))
            case "generate.batch_size":
                yield from ((name, rows) for rows in _halved(config.generate.batch_size, 1))
            case "models.scope" if config.models.scope == "all":
                yield name, "mlp"
            case "models.merge_on" if config.models.merge_on != "host":
                yield name, "host"
            case "train.gradient_checkpointing" if not config.train.gradient_checkpointing:
                yield name, True
            case "train.gradient_accumulation":
                more = range(config.train.gradient_accumulation + 1, config.train.batch_size + 1)
                yield from ((name, parts) for parts in more if config.train.batch_size % parts == 0)
            case "train.lora_rank":
                yield from ((name, rank) for rank in _halved(config.train.lora_rank, _SMALLEST_RANK))


def fit(
    config: RunConfig, budget: float, build: Callable[[RunConfig], tuple[Plan, Shape, Shape]]
) -> dict[str, Any] | None:
    """Settings with which the largest phase takes at most `budget` bytes: as few and as gentle as there are.

    Args:
        config: a run that may not fit.
        budget: bytes on the device.
        build: makes the plan of a configuration, with the shapes of seed and generator; what it names as a remedy
            leaves the number of phases as it is.

    Returns:
        Dotted keys and values; empty where the run fits as it is, None where nothing known is enough.
    """
    chosen: dict[str, Any] = {}
    offered: dict[str, list[Any]] = {}
    for number in range(len(build(config)[0].phases)):
        changed = with_settings(config, chosen)
        plan, seed, generator = build(changed)
        phase = plan.phases[number]
        tries = remedies(phase.name, changed, seed if phase.name == "evaluate" else generator)
        while phase.peak > budget:
            key, value = next(tries, (None, None))
            if key is None:
                return None
            chosen[key] = value
            offered.setdefault(key, []).append(value)
            phase = build(with_settings(config, chosen))[0].phases[number]
    for key, values in offered.items():  # what a later one made unnecessary
        others = {k: v for k, v in chosen.items() if k != key}
        gentler = [others, *({**others, key: value} for value in values)]
        chosen = next(c for c in gentler if build(with_settings(config, c))[0].peak <= budget)
    return chosen


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A configuration with some dotted keys (`section.key`) changed."""
    for dotted, value in settings.items():
        section, key = dotted.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})
    return config


def _halved(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value
