"""The method, in order. Each step reads what is recorded and adds what is missing, so that the same call continues one
that was stopped at any instant.

    measure the solver
    for each epoch:  sample N answers to each training question -> keep what the model's own verifier selects, external
                     answers instead where the schedule has some -> LoRA fine-tuning on what was kept, one pass ->
                     measure the model of the middle of the epoch and that of its end

Adapter and optimiser go on from epoch to epoch: an optimiser that begins anew would take its largest steps first and
put a tooth into the curves at the beginning of each epoch.
The middle is the optimiser step at half of the epoch's steps, rounded up, and its time is that step over all of them.
Merged into the weights is the adapter for sampling in float32 only; in half precision merging would round it away.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from selfdev import sft
from selfdev.dynamics import cross
from selfdev.errors import DataError
from selfdev.generate import stream_seed
from selfdev.grading import grade_all
from selfdev.rundir import write_atomic
from selfdev.selfimprove.directory import Directory, append_rows, keep_rows, read_rows, write_rows
from selfdev.selfimprove.measure import Answered, Point, question_values, to_csv
from selfdev.selfimprove.problems import Problems
from selfdev.selfimprove.sampler import Drawn, PromptSampler
from selfdev.selfimprove.selection import Sampled, select
from selfdev.selfimprove.settings import ImproveConfig
from selfdev.types import Question
from selfdev.verifiers.base import Response
from selfdev.verifiers.recorded import Likelihood, Majority

RECORD = "selfdev_sft.json"  # in an adapter's directory: what its epoch did
GRADES = "A-E"  # of verifier `quality`
OPTIMIZER = "optimizer.pt"  # beside it: the optimiser's state at its end


class View(Protocol):
    """What is shown meanwhile."""

    def phase(self, label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        """Show a phase; the function it gives advances it."""
        ...

    def measured(self, point: Point) -> None:
        """Show a measurement."""
        ...

    def trained(self, epoch: int, trained: Trained) -> None:
        """Show what an epoch has trained on."""
        ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What one epoch did. Losses in nats per completion token; None where nothing was kept."""

    rows: int
    external: int  # of the rows
    steps: int
    middle_step: int  # after which the middle's adapter was saved; 0: that of the epoch before stands in
    first_loss: float | None
    last_loss: float | None


@dataclass(frozen=True, slots=True)
class Improvement:
    """Everything that the fits need."""

    points: list[Point]  # measurement questions: the start, then middle and end of each epoch
    train_points: list[Point]  # training questions, at the start of each epoch
    trained: list[Trained]

    @property
    def ends(self) -> list[Point]:
        """The start and the end of every epoch: times 0, 1, ..."""
        return self.points[::2]


@dataclass(frozen=True, slots=True)
class Run:
    """What every step is given."""

    config: ImproveConfig
    problems: Problems
    directory: Directory
    view: View


def improve(run: Run) -> Improvement:
    """Begin or continue a self-improvement.

    Raises:
        StageError: training diverged.
        ModelError: the model's output is not finite.
    """
    done = Improvement([measure(run, 0, 0.0, None)], [], [])
    for epoch in range(1, run.config.epochs + 1):
        before = adapter_after(run.directory, epoch - 1)
        answered = draw(
            run, run.directory.samples(epoch), run.problems.train, ("train", epoch), before, f"epoch {epoch} · sample"
        )
        done.train_points.append(to_point(float(epoch - 1), answered, run.config.threshold))
        trained = train(run, epoch, keep(run, epoch, answered), before)
        done.trained.append(trained)
        run.view.trained(epoch, trained)
        half = trained.middle_step / trained.steps if trained.middle_step else 0.5
        for number, time in ((2 * epoch - 1, epoch - 1 + half), (2 * epoch, float(epoch))):
            adapter = adapter_after(run.directory, epoch, middle=number % 2 == 1)
            done.points.append(measure(run, number, time, adapter))
        write_atomic(run.directory.path / "curves.csv", to_csv(done.points))
        write_atomic(run.directory.path / "curves-train.csv", to_csv(done.train_points))
    return done


def measure(run: Run, number: int, time: float, adapter: Path | None) -> Point:
    """Solver and verifier capability on the measurement questions, with streams of this measurement's own."""
    label = f"measure at {time:g}"
    path = run.directory.measurement(number)
    answered = draw(run, path, run.problems.measure, ("measure", number), adapter, label)
    point = to_point(time, answered, run.config.threshold)
    run.view.measured(point)
    return point


def to_point(time: float, answered: Sequence[Sequence[Answered]], threshold: float) -> Point:
    """All questions' values at one time."""
    return Point(time, tuple(question_values(samples, threshold) for samples in answered))


def adapter_after(directory: Directory, epoch: int, middle: bool = False) -> Path | None:
    """The newest adapter at the end, or in the middle, of an epoch; None is the base model."""
    candidates = [directory.checkpoint(epoch, middle)]
    candidates += [directory.checkpoint(earlier) for earlier in range(epoch - 1, 0, -1)]
    return next((path for path in candidates if path.is_dir()), None)


# -- sampling ---------------------------------------------------------------------------------------------------------


def draw(
    run: Run,
    path: Path,
    questions: Sequence[Question],
    stage: tuple[str, int],
    adapter: Path | None,
    label: str,
) -> list[list[Answered]]:
    """N samples of each question with verdicts and qualities; whole batches in the file are not drawn again."""
    count = run.config.samples
    if len(read_rows(path)) < len(questions) * count:
        with run.view.phase(label, len(questions) * count) as advance, sampler(run, adapter) as drawing:
            _draw_missing(run, path, questions, stage, drawing, advance)
    by_question: dict[str, dict[int, dict[str, Any]]] = {q.id: {} for q in questions}
    for row in read_rows(path):
        by_question[row["question"]][row["sample"]] = row
    rows = [[by_question[q.id][number] for number in range(count)] for q in questions]
    responses = [[Response(r["text"], r["tokens"], r["nll"], r["extracted"]) for r in group] for group in rows]
    qualities = judge(run, path.with_suffix(".quality.jsonl"), questions, responses, adapter, label)
    return [
        [
            Answered(Sampled(response, row["truncated"], quality), row["correct"])
            for row, response, quality in zip(*columns, strict=True)
        ]
        for columns in zip(rows, responses, qualities, strict=True)
    ]


def _draw_missing(
    run: Run,
    path: Path,
    questions: Sequence[Question],
    stage: tuple[str, int],
    drawing: PromptSampler,
    advance: Callable[[int], object],
) -> None:
    name, number = stage
    seeds = [
        [stream_seed(run.config.seed, f"selfimprove/{name}/{q.id}", number, i) for i in range(run.config.samples)]
        for q in questions
    ]
    prompts = [q.prompt for q in questions]
    sizes = [sum(map(len, (piece for _, piece in batch))) for batch in drawing.plan(prompts, run.config.samples)]
    recorded = len(read_rows(path))
    skip = next((i for i in range(len(sizes)) if sum(sizes[: i + 1]) > recorded), len(sizes))
    keep_rows(path, sum(sizes[:skip]))
    advance(sum(sizes[:skip]))
    for batch in drawing.draw(prompts, seeds, skip):
        append_rows(path, _graded(run, questions, batch))
        advance(len(batch))


def _graded(run: Run, questions: Sequence[Question], batch: Sequence[Drawn]) -> list[dict[str, Any]]:
    asked = [questions[drawn.prompt] for drawn in batch]
    grades = grade_all(run.problems.grade, [drawn.text for drawn in batch], [q.gold for q in asked])
    return [
        {
            "question": question.id,
            "sample": drawn.number,
            "text": drawn.text,
            "tokens": drawn.tokens,
            "nll": drawn.nll,
            "truncated": drawn.truncated,
            "extracted": grade.extracted,
            "correct": grade.correct,
        }
        for question, drawn, grade in zip(asked, batch, grades, strict=True)
    ]


@contextmanager
def sampler(run: Run, adapter: Path | None) -> Iterator[PromptSampler]:
    """The solver with this adapter, ready to draw."""
    import torch

    from selfdev.generators.adapters import attach
    from selfdev.models import load_causal_lm

    config = run.config
    model, tokenizer = load_causal_lm(config.model, config.device, config.dtype)
    if adapter is not None:
        model = attach(model, config.model, adapter)
        if model.dtype == torch.float32:
            model = model.merge_and_unload()
    yield PromptSampler(
        model,
        tokenizer,
        batch_size=config.sample_batch,
        max_new_tokens=run.problems.max_new_tokens,
        stop=run.problems.stop,
        temperature=config.temperature,
    )
    del model
    _free(config.device)


def _free(device: str) -> None:
    """Give a device's memory back; main memory is given back by itself."""
    if device != "cpu":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def judge(
    run: Run,
    path: Path,
    questions: Sequence[Question],
    responses: Sequence[Sequence[Response]],
    adapter: Path | None,
    label: str,
) -> list[list[float]]:
    """The verifier's quality of every sample: from what is recorded, or asked of the same model and kept in a file."""
    if run.config.select in ("likelihood", "majority"):
        verifier = Likelihood() if run.config.select == "likelihood" else Majority()
        return [[judgement.score for judgement in verifier.score(group)] for group in responses]
    rows = read_rows(path)
    if len(rows) < len(questions):
        keep_rows(path, len(rows))
        with run.view.phase(f"{label}, {run.config.select}", len(questions)) as advance:
            advance(len(rows))
            _judge_missing(run, path, questions, responses, adapter, len(rows), advance)
        rows = read_rows(path)
    found = {row["question"]: row["qualities"] for row in rows}
    return [found[q.id] for q in questions]


def check_verifier(config: ImproveConfig, problems: Problems, tokenizer: Any) -> None:
    """Refuse, before anything is drawn, a verifier that cannot ask this model about the longest question.

    Raises:
        UsageError: its tokenizer does not tell the answers apart, it has no chat template, or no room for a question.
    """
    from selfdev.verifiers.model import check_questions

    asked = [problems.plain.get(q.id, q.prompt) for q in (*problems.train, *problems.measure)]
    longest = max(asked, key=lambda prompt: len(tokenizer(prompt)["input_ids"]))
    check_questions(
        [config.select], config.model, config.task.chat_template, longest, GRADES, problems.max_new_tokens
    )  # fmt: skip


def _judge_missing(
    run: Run,
    path: Path,
    questions: Sequence[Question],
    responses: Sequence[Sequence[Response]],
    adapter: Path | None,
    first: int,
    advance: Callable[[int], object],
) -> None:
    from selfdev.verifiers.model import Quality, TrueFalse
    from selfdev.verifiers.scorer import TransformersScorer

    config = run.config
    scorer = TransformersScorer(
        config.model, config.device, max(1, config.sample_batch // 4), config.dtype, config.task.chat_template
    )
    scorer.load(adapter)
    try:
        for question, group in list(zip(questions, responses, strict=True))[first:]:
            task = run.problems.plain.get(question.id, question.prompt)
            verifier = TrueFalse(scorer, task) if config.select == "true-false" else Quality(scorer, task, GRADES)
            scores = [judgement.score for judgement in verifier.score(group)]
            append_rows(path, [{"question": question.id, "qualities": scores}])
            advance(1)
    finally:
        scorer.close()


# -- selecting and training -------------------------------------------------------------------------------------------


def keep(run: Run, epoch: int, answered: Sequence[Sequence[Answered]]) -> list[dict[str, Any]]:
    """What the epoch trains on: external answers that are due, for all other questions the own selection."""
    path = run.directory.kept(epoch)
    if not path.exists():
        external = external_rows(run, epoch)
        taken = {row["prompt"] for row in external}
        own = [
            _own_row(question, samples, run.config.threshold)
            for question, samples in zip(run.problems.train, answered, strict=True)
            if question.prompt not in taken
        ]
        write_rows(path, [*filter(None, own), *external])
    return read_rows(path)


def _own_row(question: Question, samples: Sequence[Answered], threshold: float) -> dict[str, Any] | None:
    sampled = [answered.sampled for answered in samples]  # without the verdicts
    place = select(sampled, threshold)
    if place is None:
        return None
    chosen = sampled[place]
    return {
        "source": "own",
        "question": question.id,
        "sample": place,
        "prompt": question.prompt,
        "completion": chosen.response.text,
        "quality": chosen.quality,
        "nll_per_token": chosen.nll_per_token,
    }


def external_rows(run: Run, epoch: int) -> list[dict[str, Any]]:
    """The external answers that come in at an epoch; over all epochs each comes in once."""
    external = run.problems.external
    rows = cross.counts(len(external), cross.shares(run.config.cross.schedule, run.config.epochs))
    first = sum(rows[: epoch - 1])
    return [{"source": "external"} | pair._asdict() for pair in external[first : first + rows[epoch - 1]]]


def train(run: Run, epoch: int, rows: Sequence[dict[str, Any]], before: Path | None) -> Trained:
    """One pass over the kept rows; an adapter that is complete is not trained again."""
    if not rows:
        return Trained(0, 0, 0, 0, None, None)
    out = run.directory.checkpoint(epoch)
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    if not out.is_dir():
        middle = run.directory.checkpoint(epoch, middle=True)
        shutil.rmtree(middle, ignore_errors=True)
        _train(run, epoch, rows, before, work)
        if (work / "middle").is_dir():
            (work / "middle").rename(middle)
        (work / "end").rename(out)  # last: now the epoch counts as trained
        shutil.rmtree(work)
    return Trained(**json.loads((out / RECORD).read_text(encoding="utf-8")))


def _train(run: Run, epoch: int, rows: Sequence[dict[str, Any]], before: Path | None, work: Path) -> None:
    import torch

    from selfdev.generators.adapters import attach
    from selfdev.models import load_causal_lm

    config = run.config
    steps = -(-len(rows) // config.train.batch_size)
    middle = (steps + 1) // 2 if steps > 1 else 0
    recipe = sft.Recipe(
        steps=steps,
        batch_size=config.train.batch_size,
        micro_batch=config.train.micro_batch,
        learning_rate=config.train.learning_rate,
        lora_rank=config.train.lora_rank,
        lora_alpha=2 * config.train.lora_rank,
        threads=config.threads,
        seed=stream_seed(config.seed, "selfimprove/sft", epoch, 0) % 2**31,
        schedule="constant",
    )
    model, tokenizer = load_causal_lm(config.model, config.device, config.dtype)
    state = None
    if before is not None:
        state = torch.load(before / OPTIMIZER, map_location=config.device, weights_only=True)
        model = attach(model, config.model, before, trainable=True)
    pairs = [sft.Pair(row["prompt"], row["completion"]) for row in rows]
    work.mkdir(parents=True)
    with run.view.phase(f"epoch {epoch} · train", steps) as advance:
        adapted, losses, state = sft.train(
            model,
            tokenizer,
            pairs,
            work,
            recipe,
            config.device,
            on_step=lambda *_: advance(1),
            hooks={middle: lambda adapted: _save(adapted, work / "middle")} if middle else None,
            optimizer=state,
        )
        _save(adapted, work / "end")
        torch.save(state, work / "end" / OPTIMIZER)
    external = sum(row["source"] == "external" for row in rows)
    record = Trained(len(rows), external, losses.steps, middle, losses.first, losses.last)
    (work / "end" / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    del model, adapted
    _free(config.device)


def _save(adapted: Any, out: Path) -> None:
    # Embeddings are never trained; asking for them would send peft to the hub for the base model's configuration.
    adapted.save_pretrained(out, save_embedding_layers=False)


def check_external(problems: Problems, tokenizer: Any, context: int | None) -> None:
    """External answers that exceed the model's context cannot be trained on.

    Raises:
        DataError: with how many.
    """
    short = sft.short_enough(problems.external, tokenizer, context or 1 << 30) if problems.external else []
    if not all(short):
        raise DataError(
            f"{short.count(False)} of {len(short)} external answers exceed the model's context of {context} tokens; "
            "shorten or drop them"
        )
