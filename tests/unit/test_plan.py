"""Sizes by hand, for the paper's models and this package's; and what is offered where a run does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from selfdev import architectures, plan_time
from selfdev.architectures import read_shape, shape_of
from selfdev.cli import main
from selfdev.cli.plan import build, check
from selfdev.config import RunConfig, load_config
from selfdev.errors import ModelError, StageError, UsageError
from selfdev.plan import Phase, Plan, Shape, fit, with_settings, workload

SEED = "openchat/openchat-3.5-1210"
MLP = 3 * 4096 * 14_336  # gate, up and down of one layer
ATTENTION = 2 * 4096 * 4096 + 2 * 4096 * 1024  # query and output; keys and values of 8 of the 32 heads
PARAMETERS = (
    2 * 32_002 * 4096 + 32 * (MLP + ATTENTION + 2 * 4096) + 4096
)  # embedding, head; two norms a layer, one last


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "peek_config", offline(architectures.peek_config))


def offline(peek: Callable[[str], object]) -> Callable[[str], object]:
    """Hub ids are not served; directories and the zoo are as ever."""
    return lambda ref: None if "/" in ref and not Path(ref).exists() else peek(ref)


def paper(**changes: object) -> RunConfig:
    return load_config("paper-gsm8k", None, changes)


def phase(made: Plan, name: str) -> Phase:
    return next(phase for phase in made.phases if phase.name == name)


def size(of: Phase, what: str) -> float:
    """Bytes of the one item that begins so."""
    (item,) = (item for item in of.items if item.what.startswith(what))
    return item.bytes


@pytest.fixture(scope="module")
def mistral() -> Shape:
    return shape_of(architectures._known(SEED), "bfloat16", "mlp")


def test_a_7b_model_by_hand(mistral: Shape) -> None:
    assert PARAMETERS == 7_241_748_480
    assert mistral.parameters == PARAMETERS
    assert mistral.merged == 32 * MLP == 5_637_144_576
    assert mistral.largest == 4096 * 14_336
    assert mistral.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 == 131_072
    # rank x (inputs + outputs) of q, o, k, v, gate, up and down
    widths = 8192 + 8192 + 5120 + 5120 + 3 * 18_432
    assert mistral.lora_parameters(256) == 256 * 32 * widths == 671_088_640


def test_shapes_of_a_small_tied_model() -> None:
    config = LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip
    shape = shape_of(config)
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 12 + 2 * 8
    assert shape.parameters == 10 * 8 + 2 * layer + 8
    assert (shape.bytes, shape_of(config, "bfloat16").bytes) == (4, 2)
    assert shape_of(config, "auto", ["*.1.mlp.up_proj.*"]).merged == 96
    with pytest.raises(UsageError, match=r"models\.scope \['\*\.moe\.\*'\] matches none"):
        shape_of(config, "auto", ["*.moe.*"])


def test_a_model_of_which_nothing_is_known() -> None:
    assert read_shape(SEED + "@main", "bfloat16").parameters == PARAMETERS
    with pytest.raises(ModelError, match=r"hf download someone/something config\.json"):
        read_shape("someone/something")


def test_the_papers_run_fits_80_gb() -> None:
    made, _, _ = build(paper())
    evaluate, generate, train, judge = made.phases
    assert made.peak <= 80e9
    assert size(evaluate, "3 task vectors") == 3 * 5_637_144_576 * 2
    assert size(evaluate, "seed model") == size(evaluate, "engine's weights") == PARAMETERS * 2
    # 900 shared tokens once, 110 + 256 for each of 100 questions
    assert size(evaluate, "key-value cache") == (900 + 100 * 366) * 131_072
    assert size(train, "adapter") == size(train, "its gradients") == 671_088_640 * 4
    assert size(train, "its optimiser state") == 2 * 671_088_640 * 4
    assert evaluate.host == pytest.approx(3 * 11.274289e9 + 14.483497e9 + 11.274289e9 + 6 * 4 * 58_720_256, rel=1e-6)
    assert evaluate.peak == sum(item.bytes for item in evaluate.items if not item.host)
    assert generate.host == train.host == judge.host == 0


def test_judging_by_hand() -> None:
    judge = phase(build(paper(**{"gap.verifiers": ["implicit-reward"]}))[0], "judge")
    work = build(paper())[0].work
    assert size(judge, "verifier") == PARAMETERS * 2
    assert size(judge, "its adapter") == 671_088_640 * 4
    # of 2 GB of float32 logits, so many rows of `program` tokens over 32,002 words
    rows = int(2e9 // (4 * work.program * 32_002))
    assert rows < paper().generate.batch_size
    kept = (work.prompt + rows * work.program) * 131_072
    joined = rows * (work.prompt + work.program) * 4096  # one of the 32 layers
    widths = (4 * 4096 + 3 * 14_336) * 2
    logits = rows * work.program * 32_002 * 2 + 2 * work.program * 32_002 * 4
    one = size(judge, f"one pass over {rows} rows")
    assert one == pytest.approx(kept + joined + rows * work.program * widths + logits)


def test_who_judges_is_held() -> None:
    tiny = "zoo:solver-seed"
    asked = {"gap.verifiers": ["true-false", "implicit-reward"]}
    both = phase(build(paper(**asked, **{"gap.model": tiny}))[0], "judge")
    assert size(both, f"verifier {tiny}") < size(both, f"verifier {paper().generate.model}")
    assert len([item for item in both.items if item.what.startswith("its adapter")]) == 1
    assert [p.name for p in build(paper(**{"gap.verifiers": ["likelihood"]}))[0].phases] == [
        "evaluate", "generate", "train",
    ]  # fmt: skip


def test_merging_beside_the_engine_holds_all_of_it() -> None:
    evaluate = phase(build(paper(**{"models.merge_on": "device"}))[0], "evaluate")
    assert evaluate.host == 0
    assert evaluate.peak > 2 * PARAMETERS * 2 + 4 * 5_637_144_576 * 2


def test_with_transformers_the_larger_of_merging_and_answering_counts() -> None:
    keys = {"evaluate.engine": "transformers", "models.merge_on": "device"}
    few, many = (phase(build(paper(**keys, **{"evaluate.batch_size": n}))[0], "evaluate") for n in (1, 100))
    assert size(few, "a program's result") == 5_637_144_576 * 2
    assert not [item for item in few.items if item.what.startswith("key-value")]
    assert size(many, "key-value cache, 100 rows x 1266 tokens") == 100 * 1266 * 131_072
    assert not [item for item in many.items if item.what.startswith("a program")]


def test_work_by_hand() -> None:
    work = workload(paper(), prompt_characters=700, baselines=33)
    assert work.samples == 3 * 3000
    assert work.evaluations == 33 + 9000 + 3 * (1319 - 100) / 100
    assert work.prompt == 200
    # 3 % of 3,000 and 3 elites, against 10 %: 93 x 300 pairs, of which 1,000 are taken in each of 3 iterations
    assert work.pairs == 3 * 1000
    assert workload(paper(**{"train.max_steps": 10}), 700, 33).pairs == 3 * 10 * 8
    assert workload(paper(**{"generate.samples": 100}), 700, 33).pairs == 3 * (3 + 3) * 10
    train = paper(**{"task.dev_from": "train", "task.train_data": "x.jsonl", "task.data": "y.jsonl"})
    assert workload(train, 700, 33).evaluations == 33 + 9000 + 3 * 1319 / 100


def test_checkpointing_and_smaller_parts_take_less() -> None:
    plain = phase(build(paper(**{"train.gradient_checkpointing": False}))[0], "train").peak
    whole = phase(build(paper(**{"train.gradient_accumulation": 1}))[0], "train").peak
    assert phase(build(paper())[0], "train").peak < min(plain, whole)


@pytest.mark.parametrize(
    ("changes", "budget", "settings"),
    [
        ({}, 80, {}),
        ({"models.merge_on": "device"}, 80, {"models.merge_on": "host"}),
        ({"models.dtype": "float32"}, 45, {}),
        ({"models.dtype": "float32", "evaluate.engine": "transformers"}, 39, {"models.dtype": "bfloat16"}),
        ({"generate.batch_size": 512}, 80, {"generate.batch_size": 256}),
        ({"train.gradient_checkpointing": False}, 39, {"train.gradient_checkpointing": True}),
        ({}, 30, {"generate.batch_size": 64, "train.lora_rank": 128}),
    ],
)
def test_the_settings_offered_are_few_and_fit(
    changes: dict[str, object], budget: float, settings: dict[str, object]
) -> None:
    config = paper(**changes)
    assert fit(config, budget * 1e9, build) == settings
    assert build(with_settings(config, settings))[0].peak <= budget * 1e9
    if settings:
        assert build(config)[0].peak > budget * 1e9


def test_what_cannot_fit_is_refused_with_the_setting_that_would() -> None:
    config = paper(**{"models.merge_on": "device"})
    with pytest.raises(StageError) as error:
        check(config, build(config)[0], 80)
    assert "phase evaluate needs 84.4 GB, the card has 80" in str(error.value)
    assert str(error.value).endswith("--set models.merge_on=host")
    with pytest.raises(StageError, match="no setting known here makes it fit"):
        check(config, build(config)[0], 8)


def test_time_grows_with_what_it_is_made_of(mistral: Shape) -> None:
    config = paper(**{"models.merge_on": "device"})
    made, seed, generator = build(config)
    fast, slow = (plan_time.seconds(made, config, seed, generator, device) for device in plan_time.DEVICES[:2])
    assert all(fast[name] < slow[name] for name in fast)
    host = plan_time.seconds(build(paper())[0], paper(), seed, generator, plan_time.DEVICES[0])
    # 10 passes over 3 task vectors, seed and result, at 50 GB/s: 11.3 s a candidate
    passes = 10 * 5 * 5_637_144_576 * 2
    rate = 0.7 * plan_time.DEVICES[0].bandwidth
    assert host["evaluate"] - fast["evaluate"] == pytest.approx(made.work.evaluations * passes * (1 / 50e9 - 1 / rate))
    # one reading of 7.24e9 bfloat16 weights and 128 half-filled caches per token, 71 batches of 1,024
    step = (mistral.parameters * 2 + 128 * (made.work.prompt + 512) * 131_072) / rate
    # and 64 samples for the gap at each of 3 iterations, and at one point inside each training
    few = (mistral.parameters * 2 + 64 * (made.work.prompt + 512) * 131_072) / rate
    assert made.work.measured == 3 * 2 * 64
    assert fast["generate"] == pytest.approx(1024 * (71 * step + 6 * few))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    return int(stopped.value.code or 0)


def test_the_command_prints_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--preset", "paper-gsm8k", "--gpu-memory", "80") == 0
    printed = capsys.readouterr().out
    for part in (
        "evaluate",
        "33.82",
        "peak",
        "(estimated, not measured)",
        "H100",
        "not checked",
        "fits: 38.3 of 80 GB",
    ):
        assert part in printed


def test_the_command_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--preset", "paper-gsm8k", "--set", "models.merge_on=device", "--gpu-memory", "80") == 1
    error = capsys.readouterr().err
    assert error.startswith("selfdev: phase evaluate needs")
    assert error.count("\n") == 1


def test_the_command_checks_models_that_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "models.sources=['zoo:solver-seed', 'zoo:solver-add']") == 0
    assert "error: source 'zoo:solver-seed' is identical to the seed" in capsys.readouterr().out
