"""The compute seam: the scripted worker and the local one (real sandbox child, real tiny model) behave alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from selfdev_sandbox import Limits, Sandbox

from selfdev.baselines import read_rule
from selfdev.compute.base import Worker
from selfdev.compute.local import LocalWorker, MergedCache, result_hash
from selfdev.compute.scripted import ScriptedWorker
from selfdev.errors import EngineError
from selfdev.evaluators.scripted import ScriptedEvaluator, ScriptedReply
from selfdev.evaluators.transformers import TransformersEvaluator
from selfdev.task_vectors import load_task_vectors
from selfdev.types import Completion, ExecutionStatus, MergeProgram
from tests.tiny import nudged, save_tiny, tiny_llama

PROMPTS = ["Question: 1\nAnswer:", "Question: 2\nAnswer:", "Question: 3\nAnswer:"]
MEAN = read_rule("uniform_average")
BROKEN = "def merge_models(task_vectors):\n    return task_vectors[7]\n"


CACHED = 2**30  # bytes: room for every merge of these tests


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Sandbox, TransformersEvaluator, Sequence[Mapping[str, torch.Tensor]]]]:
    """What the local workers share: real sandbox, real tiny model, task vectors."""
    folder = tmp_path_factory.mktemp("worker")
    seed = tiny_llama()
    refs = [str(save_tiny(folder / "seed", seed))]
    refs += [str(save_tiny(folder / f"s{i}", nudged(seed, i))) for i in (1, 2)]
    vectors = load_task_vectors(refs[0], refs[1:])
    evaluator = TransformersEvaluator(refs[0], "cpu", batch_size=2, max_new_tokens=6, stop=("Question:",))
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(Limits(seconds=20.0)))
        yield sandbox, evaluator, vectors.vectors
        evaluator.close()


@pytest.fixture(scope="module")
def local(engines) -> LocalWorker:
    return LocalWorker(*engines)


@pytest.fixture(params=["scripted", "local", "local with a cache"])
def worker(request: pytest.FixtureRequest) -> Worker:
    if request.param == "local":
        return request.getfixturevalue("local")
    if request.param == "local with a cache":
        return LocalWorker(*request.getfixturevalue("engines"), cache_bytes=CACHED)
    quality: Callable[[str], float | None] = lambda source: None if source == BROKEN else 0.5  # noqa: E731
    return ScriptedWorker(quality, dict.fromkeys(PROMPTS, " #### 1"))


def program(source: str, name: str = "a" * 12) -> MergeProgram:
    return MergeProgram(name, source, 7)


def test_a_valid_program_answers_every_prompt(worker: Worker) -> None:
    outcome = worker.run(program(MEAN), PROMPTS, known=())
    assert outcome.status is ExecutionStatus.OK
    assert outcome.completions is not None
    assert len(outcome.completions) == len(PROMPTS)
    assert outcome.result_hash is not None
    assert outcome.operations > 0


def test_the_same_program_gives_the_same_outcome(worker: Worker) -> None:
    assert worker.run(program(MEAN), PROMPTS, known=()) == worker.run(program(MEAN, "b" * 12), PROMPTS, known=())


def test_a_known_result_is_not_answered_again(worker: Worker) -> None:
    first = worker.run(program(MEAN), PROMPTS, known=())
    again = worker.run(program(MEAN), PROMPTS, known={first.result_hash})
    assert again.status is ExecutionStatus.OK
    assert again.result_hash == first.result_hash
    assert again.completions is None


def test_a_known_fingerprint_is_not_run_again(worker: Worker) -> None:
    first = worker.run(program(MEAN), PROMPTS, known=())
    assert first.fingerprint is not None
    assert first.tags
    again = worker.run(program(MEAN, "c" * 12), PROMPTS, known={first.fingerprint})
    assert again.status is ExecutionStatus.OK
    assert again.fingerprint == first.fingerprint
    assert (again.result_hash, again.completions, again.operations) == (None, None, 0)


def test_a_failing_program_is_an_outcome_and_the_next_one_is_unharmed(worker: Worker) -> None:
    before = worker.run(program(MEAN), PROMPTS, known=())
    failed = worker.run(program(BROKEN), PROMPTS, known=())
    assert failed.status is ExecutionStatus.EXCEPTION
    assert failed.error
    assert failed.result_hash is None
    assert failed.completions is None
    assert worker.run(program(MEAN), PROMPTS, known=()) == before


def test_prompts_come_back_in_order(worker: Worker) -> None:
    forward = worker.run(program(MEAN), PROMPTS, known=()).completions
    backward = worker.run(program(MEAN), PROMPTS[::-1], known=()).completions
    assert forward is not None
    assert backward is not None
    if not isinstance(worker, ScriptedWorker):  # the fake is right on the first prompts, whichever they are
        assert [c.text for c in forward] == [c.text for c in backward[::-1]]


# -- again ------------------------------------------------------------------------------------------------------------


def test_again_answers_as_run_did(worker: Worker) -> None:
    first = worker.run(program(MEAN), PROMPTS, known=())
    for _ in range(2):
        again = worker.again(program(MEAN), PROMPTS, str(first.result_hash))
        assert (again.status, again.result_hash) == (ExecutionStatus.OK, first.result_hash)
        assert again.completions == first.completions


def test_again_needs_no_run_before_it(worker: Worker, local: LocalWorker) -> None:
    """As in a second sitting: the result hash comes from the store."""
    known = worker if isinstance(worker, ScriptedWorker) else local
    first = known.run(program(MEAN), PROMPTS, known=())
    again = worker.again(program(MEAN), PROMPTS[:1], str(first.result_hash))
    assert again.status is ExecutionStatus.OK
    assert again.completions is not None
    assert len(again.completions) == 1


def test_other_bits_than_expected_are_nondeterministic(worker: Worker) -> None:
    outcome = worker.again(program(MEAN), PROMPTS, "0" * 64)
    assert outcome.status is ExecutionStatus.NONDETERMINISTIC
    assert (outcome.completions, outcome.result_hash) == (None, None)
    assert outcome.error


def test_again_without_prompts_answers_nothing(worker: Worker) -> None:
    first = worker.run(program(MEAN), PROMPTS, known=())
    outcome = worker.again(program(MEAN), (), str(first.result_hash))
    assert (outcome.status, outcome.completions) == (ExecutionStatus.OK, ())
    assert worker.again(program(MEAN), (), "0" * 64).status is ExecutionStatus.NONDETERMINISTIC


def test_after_again_the_next_program_is_unharmed(worker: Worker) -> None:
    before = worker.run(program(MEAN), PROMPTS, known=())
    worker.again(program(MEAN), PROMPTS, str(before.result_hash))
    worker.again(program(MEAN), PROMPTS, "0" * 64)
    assert worker.run(program(MEAN), PROMPTS, known=()) == before


@pytest.mark.parametrize("cache_bytes", [0, CACHED])
def test_again_puts_the_seed_back_bit_for_bit(engines, cache_bytes: int) -> None:
    evaluator: TransformersEvaluator = engines[1]
    worker = LocalWorker(*engines, cache_bytes=cache_bytes)
    seed = {name: tensor.clone() for name, tensor in evaluator.seed_parameters().items()}
    seen = []
    applied, real = evaluator._parameters, evaluator.generate

    def looking(prompts, *rest):
        seen.append(any(not torch.equal(applied[name].data, tensor) for name, tensor in seed.items()))
        return real(prompts, *rest)

    first = worker.run(program(MEAN), PROMPTS, known=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "generate", looking)
        worker.again(program(MEAN), PROMPTS, str(first.result_hash))
    assert seen == [True]  # other weights while it answered
    assert all(torch.equal(applied[name].data, tensor) for name, tensor in seed.items())


@pytest.mark.parametrize(("cache_bytes", "runs"), [(0, 1), (100, 1), (CACHED, 0)])
def test_a_kept_result_is_not_computed_again(engines, cache_bytes: int, runs: int) -> None:
    worker = LocalWorker(*engines, cache_bytes=cache_bytes)
    first = worker.run(program(MEAN), PROMPTS, known=())
    calls, real = [], Sandbox.run

    def counted(self, *args, **kwargs):
        calls.append(kwargs)
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sandbox, "run", counted)
        again = worker.again(program(MEAN), PROMPTS, str(first.result_hash))
    assert again.completions == first.completions
    assert calls == [{"seed": 7}] * runs  # one run: it was verified when it was accepted


def test_a_program_that_fails_the_second_time_says_how(local: LocalWorker) -> None:
    outcome = local.again(program(BROKEN), PROMPTS, "0" * 64)
    assert outcome.status is ExecutionStatus.EXCEPTION
    assert outcome.completions is None
    assert outcome.error


def test_a_worker_that_has_forgotten_keeps_no_result(engines) -> None:
    """`forget` lets go of kept results with the task vectors."""
    worker = LocalWorker(*engines, cache_bytes=CACHED)
    first = worker.run(program(MEAN), (), known=())
    assert worker._kept.get(str(first.result_hash)) is not None
    worker.forget()
    assert worker._kept.get(str(first.result_hash)) is None


def test_programs_that_compute_the_same_share_a_fingerprint_and_tags_say_what_it_is(local: LocalWorker) -> None:
    sources = [
        "def merge_models(tvs):\n    n = len(tvs)\n    return {k: sum(t[k] for t in tvs) / n for k in tvs[0]}\n",
        "def merge_models(tvs):\n    return {k: 0.25 * tvs[0][k] for k in tvs[0]}\n",
        "def merge_models(tvs):\n    return {k: tvs[0][k] * (tvs[0][k] > 0) for k in tvs[0]}\n",
    ]
    same, scaled, masked = (local.run(program(s), PROMPTS, known=()) for s in sources)
    mean = local.run(program(MEAN), PROMPTS, known=())
    assert same.fingerprint == mean.fingerprint
    assert mean.tags == ("linear",)
    assert scaled.tags == ("linear", "order-dependent")
    assert masked.tags == ("data-dependent", "order-dependent", "sparse")
    assert len({same.fingerprint, scaled.fingerprint, masked.fingerprint}) == 3


def test_accepted_programs_are_run_twice(local: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose second run gives other bits is no algorithm: here the sandbox's own seed moves between runs."""
    source = "import torch\ndef merge_models(t):\n    return {k: v * torch.rand(()) for k, v in t[0].items()}\n"
    assert local.run(program(source), PROMPTS, known=()).status is ExecutionStatus.OK
    real, calls = Sandbox._run, iter(range(100))

    def drifting(self, source, vectors, seed, *rest):
        return real(self, source, vectors, seed + next(calls), *rest)

    monkeypatch.setattr(Sandbox, "_run", drifting)
    outcome = local.run(program(source), PROMPTS, known=())
    assert outcome.status is ExecutionStatus.NONDETERMINISTIC
    assert outcome.completions is None
    assert "other values" in (outcome.error or "")


def test_the_merge_is_what_plain_pytorch_computes(local: LocalWorker, tmp_path: Path) -> None:
    """Mean of two task vectors by hand, and seed + mean as an ordinary model: the same greedy text."""
    merged = {
        n: (a + b) / 2
        for (n, a), b in zip(local._task_vectors[0].items(), local._task_vectors[1].values(), strict=True)
    }
    outcome = local.run(program(MEAN), PROMPTS, known=())
    assert outcome.result_hash == result_hash(merged)
    model = tiny_llama()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, delta in merged.items():
            parameters[name] += delta
    plain = TransformersEvaluator(str(save_tiny(tmp_path / "m", model)), "cpu", 2, 6, ("Question:",))
    assert [c.text for c in plain.generate(PROMPTS)] == [c.text for c in outcome.completions or ()]
    plain.close()


def test_a_merge_that_overflows_the_seed_is_invalid(local: LocalWorker) -> None:
    huge = "def merge_models(task_vectors):\n    return {k: v * 1e38 * 1e38 for k, v in task_vectors[0].items()}\n"
    outcome = local.run(program(huge), PROMPTS, known=())
    assert outcome.status is ExecutionStatus.INVALID
    assert outcome.completions is None


class FallingEvaluator(ScriptedEvaluator):
    """Loses its engine while it holds certain weights, as vLLM may; the seed is in place then."""

    falls = 0  # times that the next candidates bring it down

    def generate(self, prompts: Sequence[str]) -> list[Completion]:
        if self.falls:
            self.falls -= 1
            self.restore()
            raise EngineError("device lost")
        return super().generate(prompts)


@pytest.mark.parametrize("falls", [1, 2])
def test_an_engine_that_fails_costs_its_candidate_only(falls: int) -> None:
    """Failing once may be chance: the program is run again. Failing twice is the program's outcome."""
    seed = {"weight": torch.zeros(4)}
    script = {prompt: ScriptedReply(right="merged", wrong="seed", threshold=0.5) for prompt in PROMPTS}
    evaluator = FallingEvaluator(seed, script)
    with Sandbox(Limits(seconds=20.0)) as sandbox:
        worker = LocalWorker(sandbox, evaluator, [{"weight": torch.ones(4)}, {"weight": torch.ones(4)}])
        expected = worker.run(program(MEAN), PROMPTS, known=())
        evaluator.falls = falls
        outcome = worker.run(program(MEAN), PROMPTS, known=())
        following = worker.run(program(MEAN), PROMPTS, known=())
    assert [c.text for c in expected.completions or ()] == ["merged"] * 3
    assert following == expected
    assert evaluator.projection() == 0.0  # the seed is back
    if falls == 1:
        assert outcome == expected
    else:
        assert outcome.status is ExecutionStatus.CRASH
        assert outcome.error == "the engine failed twice: device lost"
        assert (outcome.completions, outcome.result_hash, outcome.fingerprint) == (None, None, None)


@pytest.mark.parametrize(("falls", "status"), [(1, ExecutionStatus.OK), (2, ExecutionStatus.CRASH)])
def test_an_engine_that_fails_in_a_later_block_is_tried_once_more(falls: int, status: ExecutionStatus) -> None:
    script = {prompt: ScriptedReply(right="merged", wrong="seed", threshold=0.5) for prompt in PROMPTS}
    evaluator = FallingEvaluator({"weight": torch.zeros(4)}, script)
    with Sandbox(Limits(seconds=20.0)) as sandbox:
        worker = LocalWorker(sandbox, evaluator, [{"weight": torch.ones(4)}, {"weight": torch.ones(4)}])
        first = worker.run(program(MEAN), PROMPTS, known=())
        evaluator.falls = falls
        outcome = worker.again(program(MEAN), PROMPTS, str(first.result_hash))
    assert outcome.status is status
    assert outcome.completions == (first.completions if falls == 1 else None)
    assert evaluator.projection() == 0.0  # the seed is back


# -- what is kept of results ------------------------------------------------------------------------------------------


def merge(value: float, count: int = 4) -> dict[str, torch.Tensor]:
    """`count` float32: 4 bytes each."""
    return {"x": torch.full((count,), value)}


def test_the_least_recently_used_results_go_first() -> None:
    cache = MergedCache(48)  # three of 16 bytes
    for name in "abc":
        cache.put(name, merge(1.0))
    assert cache.get("a") is not None  # now "b" is the oldest
    cache.put("d", merge(2.0))
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    cache.put("e", merge(3.0, 8))  # 32 bytes: two must go
    assert [name for name in "abcde" if cache.get(name) is not None] == ["d", "e"]


def test_a_result_larger_than_the_cache_is_not_kept_and_costs_no_other() -> None:
    cache = MergedCache(48)
    cache.put("a", merge(1.0))
    cache.put("large", merge(1.0, 13))
    assert cache.get("large") is None
    assert cache.get("a") is not None
    empty = MergedCache(0)
    empty.put("a", merge(1.0))
    assert empty.get("a") is None


def test_what_is_kept_is_a_copy_with_the_same_bits() -> None:
    cache, given = MergedCache(10**6), {"x": torch.tensor([1.0, -0.0, 1e-40]), "y": torch.ones(2, dtype=torch.bfloat16)}
    before = {name: tensor.clone() for name, tensor in given.items()}
    cache.put("a", given)
    given["x"].zero_()
    kept = cache.get("a")
    assert kept is not None
    assert list(kept) == ["x", "y"]
    assert all(kept[name].dtype == tensor.dtype for name, tensor in before.items())
    assert torch.equal(kept["x"].view(torch.int32), before["x"].view(torch.int32))
    cache.put("a", merge(5.0))  # the same hash means the same bits: what is there stays
    assert torch.equal(cache.get("a")["x"], before["x"])  # type: ignore[index]


def test_result_hash_sees_names_shapes_and_bits() -> None:
    a = {"x": torch.tensor([1.0, 2.0])}
    assert result_hash(a) == result_hash({"x": torch.tensor([1.0, 2.0])})
    assert result_hash({"x": torch.tensor([0.0, -0.0])}) == result_hash({"x": torch.tensor([0.0, 0.0])})
    others = [
        {"y": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([[1.0, 2.0]])}, {"x": torch.tensor([1.0, 2.0 + 2**-22])},
        {"x": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)},
    ]  # fmt: skip
    assert len({result_hash(o) for o in [a, *others]}) == 5
