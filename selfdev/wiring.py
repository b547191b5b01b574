"""Configuration -> parts. Names become implementations here and nowhere else; heavy imports happen when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfdev.compute.base import Worker
from selfdev.config import RunConfig, SandboxConfig, TaskConfig
from selfdev.errors import DataError, StageError, UsageError
from selfdev.generate import stream_seed
from selfdev.generators.base import Generator
from selfdev.prompting import render_prompt, text_hash
from selfdev.race import question_order
from selfdev.sealed import Envelope, seal
from selfdev.tasks.base import Task
from selfdev.trainers.base import Trainer
from selfdev.types import Question
from selfdev.verifiers.base import Verifier

if TYPE_CHECKING:
    from selfdev_sandbox import Sandbox

    from selfdev.evaluators.transformers import TransformersEvaluator
    from selfdev.evaluators.vllm import VllmEvaluator
    from selfdev.verifiers.scorer import TransformersScorer

SELF_CHECK_PROMPTS = 4  # dev prompts answered with perturbed and restored weights before an engine is trusted


@dataclass(frozen=True)
class Parts:
    """What the loop works with. Engines are opened per phase, so that phases can share one device."""

    task: Task  # without test questions
    envelope: Envelope  # of the test questions, until the run has sealed them
    prompt: str  # the fixed generator prompt
    generator: Generator
    trainer: Trainer
    open_worker: Callable[[], AbstractContextManager[Worker]]
    # (names, the adapter that wrote the samples) -> the verifiers of those names, in order
    open_verifiers: Callable[[Sequence[str], Path | None], AbstractContextManager[list[Verifier]]]
    facts: dict[str, str]  # what must not change while a run goes on
    # (first, count) -> questions drawn like dev that the run asks nowhere; none where the task has no more
    fresh: Callable[[int, int], tuple[Question, ...]] = lambda first, count: ()


def build_parts(config: RunConfig) -> Parts:
    """Make the real parts of a configuration.

    Raises:
        UsageError, DataError, ModelError: something the configuration names cannot be used.
    """
    from selfdev.trainers.base import TrainSettings
    from selfdev.trainers.trl import TrlTrainer

    device = resolve_device(config.device)
    task, envelope = seal(load_run_task(config))
    prompt = render_prompt(config.generate.prompt)
    _check_verifiers(config, prompt)
    settings = TrainSettings(
        beta=config.train.beta,
        learning_rate=config.train.learning_rate,
        epochs=config.train.epochs,
        max_steps=config.train.max_steps,
        batch_size=config.train.batch_size,
        lora_rank=config.train.lora_rank,
        lora_alpha=config.train.lora_alpha,
        gradient_accumulation=config.train.gradient_accumulation,
        gradient_checkpointing=config.train.gradient_checkpointing,
        dtype=config.generate.dtype,
        device=device,
        threads=config.threads,
    )
    return Parts(
        task=task,
        envelope=envelope,
        prompt=prompt,
        generator=_generator(config, device),
        trainer=TrlTrainer(settings, chat_template=config.generate.chat_template),
        open_worker=lambda: open_local_worker(config, task, device),
        open_verifiers=lambda names, adapter: open_verifiers(config, prompt, device, names, adapter),
        facts=_facts(config, prompt, task),
        fresh=lambda first, count: fresh_questions(config, task, envelope, first, count),
    )


def load_run_task(config: RunConfig) -> Task:
    """The task of a run, test questions included; every block of dev questions in the random order of its races.

    Raises:
        UsageError: `dev.fresh`, and the task has no more dev questions.
    """
    task = _task_as_asked(config, config.task)
    if config.dev.fresh:
        task = _behind(config, task)
    return in_race_order(task, config.seed)


def _task_as_asked(config: RunConfig, wanted: TaskConfig) -> Task:
    """A task with its prompts as the merged models get them, in the task's own order."""
    from selfdev.tasks import load_task

    task = load_task(wanted, config.seed, config.blocks)
    if not config.task.chat_template:
        return task
    from selfdev.models import load_tokenizer
    from selfdev.tasks.chat import with_chat

    return with_chat(task, load_tokenizer(config.models.seed))


def _behind(config: RunConfig, task: Task) -> Task:
    """The task with one block of dev questions that stand behind its own; the same test questions."""
    size = config.task.dev_size
    dev = fresh_questions(config, task, seal(task)[1], 0, size)
    if len(dev) < size:
        raise UsageError(
            f"dev.fresh is set: {size} dev questions behind the {len(task.dev)} of the run are needed, and task "
            f"{config.task.name!r} has {len(dev)}; leave it out, or lower task.dev_size"
        )
    return replace(task, dev=dev, blocks=1)


def fresh_questions(config: RunConfig, task: Task, envelope: Envelope, first: int, count: int) -> tuple[Question, ...]:
    """What a larger draw of dev questions adds behind the run's own, test questions left out.

    Fewer than `count`, or none, where the task has no more or a larger draw would begin with other questions.
    """
    used, sealed = len(task.dev), {q.prompt_hash for q in envelope.questions}
    found: tuple[Question, ...] = ()
    for factor in (1, 2):  # twice as many where test questions were among them
        wider = _wider_dev(config, used + factor * (first + count))
        if {q.id for q in wider[:used]} != {q.id for q in task.dev}:
            break
        found = tuple(q for q in wider[used:] if text_hash(q.prompt) not in sealed)[first : first + count]
        if len(found) == count:
            break
    return found


def _wider_dev(config: RunConfig, count: int) -> tuple[Question, ...]:
    """At least so many dev questions, drawn as the run draws its own; none where there are too few."""
    larger = config.task.model_copy(update={"dev_size": -(-count // config.blocks), "test_size": 1})
    try:
        return _task_as_asked(config, larger).dev
    except (DataError, UsageError):
        return ()


def in_race_order(task: Task, seed: int) -> Task:
    """The task with every block of its dev questions shuffled: races and their evidence ask for a random order."""
    dev: list[Question] = []
    for number in range(task.blocks):
        block = task.block(number)
        dev += [block[i] for i in question_order(len(block), stream_seed(seed, "race", number, 0))]
    return replace(task, dev=tuple(dev))


def _generator(config: RunConfig, device: str) -> Generator:
    given: dict[str, Any] = {
        "batch_size": config.generate.batch_size,
        "max_new_tokens": config.generate.max_new_tokens,
        "dtype": config.generate.dtype,
        "chat_template": config.generate.chat_template,
    }
    if config.generate.engine == "vllm":
        from selfdev.generators.vllm import VllmGenerator

        return VllmGenerator(config.generate.model, device, settings=config.vllm, **given)
    from selfdev.generators.transformers import TransformersGenerator

    return TransformersGenerator(config.generate.model, device, **given)


def _facts(config: RunConfig, prompt: str, task: Task) -> dict[str, str]:
    from selfdev.models import fingerprint

    refs = {"seed model": config.models.seed, "generator": config.generate.model}
    refs |= {f"source {i}": ref for i, ref in enumerate(config.models.sources)}
    if config.gap.model is not None and {"true-false", "quality"} & set(config.gap.verifiers):
        refs["verifier"] = config.gap.model
    asked = {f"task {what}": fact for what, fact in task.facts.items()}
    return {"prompt": text_hash(prompt)} | asked | {what: fingerprint(ref) for what, ref in refs.items()}


def _check_verifiers(config: RunConfig, prompt: str) -> None:
    from selfdev.verifiers.model import check_questions

    gap, model = config.gap, config.gap.model or config.generate.model
    check_questions(gap.verifiers, model, gap.chat_template, prompt, gap.grades, config.generate.max_new_tokens)


@contextmanager
def open_verifiers(
    config: RunConfig, prompt: str, device: str, names: Sequence[str], adapter: Path | None
) -> Iterator[list[Verifier]]:
    """Verifiers of samples that the generator wrote with this adapter; a model is loaded once for all that ask it."""
    from selfdev.verifiers.recorded import Likelihood, Majority

    gap, generate = config.gap, config.generate
    opened: dict[tuple[str, bool], TransformersScorer] = {}

    def scorer(model: str | None, chat_template: bool) -> TransformersScorer:
        from selfdev.verifiers.scorer import TransformersScorer

        key = (model or generate.model, chat_template)
        if key not in opened:
            opened[key] = TransformersScorer(key[0], device, generate.batch_size, generate.dtype, chat_template)
            opened[key].load(adapter if model is None else None)
        return opened[key]

    def make(name: str) -> Verifier:
        from selfdev.verifiers.model import ImplicitReward, Quality, TrueFalse

        if name == "true-false":
            return TrueFalse(scorer(gap.model, gap.chat_template), prompt)
        if name == "quality":
            return Quality(scorer(gap.model, gap.chat_template), prompt, gap.grades)
        return ImplicitReward(scorer(None, generate.chat_template), prompt, config.train.beta)

    pure: dict[str, Verifier] = {"likelihood": Likelihood(), "majority": Majority()}
    try:
        yield [pure[name] if name in pure else make(name) for name in names]
    finally:
        for opened_scorer in opened.values():
            opened_scorer.close()


@contextmanager
def open_local_worker(config: RunConfig, task: Task, device: str) -> Iterator[Worker]:
    """Load seed, task vectors and sandbox on one device, and check the engine before it is trusted."""
    import torch

    from selfdev.compute.local import LocalWorker
    from selfdev.task_vectors import load_task_vectors

    scope = config.models.scope
    merge_device = "cpu" if config.models.merge_on == "host" else device
    vectors = load_task_vectors(
        config.models.seed,
        config.models.sources,
        scope=scope if isinstance(scope, str) else list(scope),
        device=merge_device,
        dtype=None if config.models.dtype == "auto" else getattr(torch, config.models.dtype),
    )
    evaluator = open_evaluator(config, task, device)
    try:
        evaluator.self_check([q.prompt for q in task.dev[:SELF_CHECK_PROMPTS]], vectors.names)
        with _sandbox(config.sandbox, merge_device) as sandbox:
            worker = LocalWorker(sandbox, evaluator, vectors.vectors, config.race.cache_bytes)
            del vectors
            yield worker
            worker.forget()
    finally:
        evaluator.close()


def open_evaluator(config: RunConfig, task: Task, device: str) -> TransformersEvaluator | VllmEvaluator:
    """The engine of `evaluate.engine` with the seed loaded."""
    given: dict[str, Any] = {
        "batch_size": config.evaluate.batch_size,
        "max_new_tokens": config.evaluate.max_new_tokens or task.max_new_tokens,
        "stop": task.stop,
        "dtype": config.models.dtype,
        "host_seed": config.models.merge_on == "host",
    }
    if config.evaluate.engine == "vllm":
        from selfdev.evaluators.vllm import VllmEvaluator

        return VllmEvaluator(config.models.seed, device, settings=config.vllm, **given)
    from selfdev.evaluators.transformers import TransformersEvaluator

    return TransformersEvaluator(config.models.seed, device, **given)


@contextmanager
def _sandbox(config: SandboxConfig, device: str) -> Iterator[Sandbox]:
    from selfdev_sandbox import Limits, Sandbox, SandboxError

    limits = Limits(seconds=config.seconds, operations=config.operations)
    try:
        with Sandbox(limits, device, frozenset(config.allow_missing)) as sandbox:
            yield sandbox
    except SandboxError as error:
        raise StageError(f"sandbox: {error}") from error


def resolve_device(name: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that exists here.

    Raises:
        UsageError: unknown or absent device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices); use --device cpu")
    return name
