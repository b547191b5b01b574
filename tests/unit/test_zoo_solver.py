"""The solver zoo: what ships loads with plain transformers and behaves as its figures say; the code that makes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

import selfdev.zoo
from selfdev.tasks.arithmetic import SKILLS, prompt, questions
from selfdev.zoo import solver, solver_rules, solver_second
from selfdev.zoo.solver_measure import MergeBench, Tally, answer, measure, wilson
from selfdev.zoo.solver_train import IGNORED, Stage, _Batches, completion_loss, encode_batch, train

MODELS = Path(selfdev.zoo.__file__).parent / "models"
NAMES = (solver.SEED_NAME, *(solver.sibling_name(skill) for skill in SKILLS))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODELS / solver.SEED_NAME)


@pytest.fixture(scope="module")
def family() -> dict[str, LlamaForCausalLM]:
    return {name: AutoModelForCausalLM.from_pretrained(MODELS / name).eval() for name in NAMES}


def test_siblings_have_the_seeds_names_shapes_and_tokenizer(family: dict[str, LlamaForCausalLM]) -> None:
    shapes = {name: {k: (v.shape, v.dtype) for k, v in model.state_dict().items()} for name, model in family.items()}
    assert all(shape == shapes[solver.SEED_NAME] for shape in shapes.values())
    assert {v.dtype for v in family[solver.SEED_NAME].parameters()} == {torch.float32}
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        assert len({(MODELS / name / file).read_bytes() for name in NAMES}) == 1, file


def test_every_sibling_beats_the_seed_on_its_own_skill(
    family: dict[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> None:
    problems = questions("test", 180, seed=11)
    for skill in SKILLS:
        own = [p for p in problems if p.skill == skill]
        seed = measure(family[solver.SEED_NAME], tokenizer, own).correct[skill]
        sibling = measure(family[solver.sibling_name(skill)], tokenizer, own).correct[skill]
        assert sibling >= seed + 12, f"{skill}: sibling {sibling}, seed {seed} of {len(own)}"


def test_the_second_set_fits_the_seed_and_beats_it_on_its_two_skills(tokenizer: PreTrainedTokenizerFast) -> None:
    seed = AutoModelForCausalLM.from_pretrained(MODELS / solver.SEED_NAME)
    problems = questions("test", 60, seed=12)
    before = measure(seed.eval(), tokenizer, problems).correct
    for pair in solver_second.PAIRS:
        path = MODELS / solver_second.pair_name(pair)
        stored = AutoModelForCausalLM.from_pretrained(path)
        assert {v.dtype for v in stored.parameters()} == {torch.float16}
        shapes = {k: v.shape for k, v in stored.state_dict().items()}
        assert shapes == {k: v.shape for k, v in seed.state_dict().items()}
        for file in ("tokenizer.json", "tokenizer_config.json"):
            assert (path / file).read_bytes() == (MODELS / solver.SEED_NAME / file).read_bytes()
        correct = measure(stored.float().eval(), tokenizer, problems).correct
        assert sum(correct[skill] - before[skill] for skill in pair) >= 6, (pair, correct, before)
        assert f"# {path.name}\n" in (path / "README.md").read_text()


def test_recorded_figures_meet_the_aims() -> None:
    figures = json.loads((MODELS / solver.FIGURES_FILE).read_text())
    models = figures["models"]
    assert 0.20 <= models[solver.SEED_NAME]["test"]["share"] <= 0.50
    for skill in SKILLS:
        own = {name: models[name]["test"]["by_skill"][skill] for name in NAMES}
        assert max(own, key=lambda name: own[name]) == solver.sibling_name(skill)
        assert own[solver.sibling_name(skill)] >= 0.75
    assert figures["joint_minus_best_baseline"] >= 0.10


def test_readmes_tell_recipe_licence_and_figures() -> None:
    for name in NAMES:
        text = (MODELS / name / "README.md").read_text()
        assert "license: apache-2.0" in text
        assert "learning rate" in text
        assert text.count("\n| solver-") == len(NAMES)


def test_models_are_small() -> None:
    assert sum(file.stat().st_size for name in NAMES for file in (MODELS / name).iterdir()) < 13_000_000


@pytest.mark.parametrize("text", ["héllo\t Wörld 3.5%\n\n x", "Question: Ana has 12 apples.\nAnswer:", "", "数 42"])
def test_tokenizer_round_trips_any_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_keeps_digits_apart_and_pads_on_the_left(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("1234")["input_ids"]) == ["1", "2", "3", "4"]
    padded = tokenizer(["7", "12"], padding=True)["input_ids"]
    assert padded[0][0] == tokenizer.pad_token_id != tokenizer.eos_token_id
    problems = questions("test", 60, seed=0)
    assert max(len(tokenizer(p.rationale)["input_ids"]) for p in problems) <= 16
    assert max(len(tokenizer(prompt(p))["input_ids"]) for p in problems) <= 40


def test_batched_answers_equal_single_ones(
    family: dict[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [prompt(p) for p in questions("dev", 9, seed=2)]
    model = family[solver.SEED_NAME]
    assert answer(model, tokenizer, prompts) == [answer(model, tokenizer, [p])[0] for p in prompts]


def test_labels_cover_the_answer_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    problems = questions("train", 3, seed=0)
    ids, labels = encode_batch(tokenizer, problems)
    for row, problem in enumerate(problems):
        kept = labels[row] != IGNORED
        assert tokenizer.decode(labels[row][kept]) == problem.rationale + "<eos>"
        assert tokenizer.decode(ids[row]).startswith(prompt(problem) + problem.rationale + "<eos>")


def test_training_is_repeatable_and_lowers_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    stage = Stage(mix={"mul": 1.0}, steps=12, learning_rate=3e-3, batch=16)
    batch = encode_batch(tokenizer, questions("train", 12, seed=5))
    ends = []
    for _ in range(2):
        model = solver._new_model(tokenizer, seed=3)
        before = completion_loss(model, *batch).item()
        train(model, tokenizer, stage, seed=4)
        ends.append(completion_loss(model, *batch).item())
    assert ends[0] == ends[1] < before - 1


def test_stages_mix_as_described() -> None:
    for skill in SKILLS:
        stage = solver.sibling_stage(skill)
        assert sum(stage.mix.values()) + stage.replay == pytest.approx(1)
        assert max(stage.mix, key=lambda name: stage.mix[name]) == skill


def test_a_stage_draws_the_parts_it_names(tokenizer: PreTrainedTokenizerFast) -> None:
    """Seed wordings alone; then three quarters subtraction in all wordings and one quarter replay."""
    batches = _Batches(tokenizer, Stage(mix={"sub": 1.0}, steps=1, learning_rate=0.1, batch=64, templates=2), seed=0)
    texts = [tokenizer.decode(row) for row in batches.next()[0]]
    assert all(" of them. " in text or " and then lost " in text for text in texts)
    mixed = Stage(mix={"sub": 1.0}, steps=1, learning_rate=0.1, batch=400, replay=0.25)
    texts = [tokenizer.decode(row) for row in _Batches(tokenizer, mixed, seed=0).next()[0]]
    others = [text for text in texts if " - " not in text]  # replayed addition and multiplication: 1/6 of all
    assert 40 <= len(others) <= 95
    assert not any("times as many" in text or "at first" in text for text in others)
    assert any("fewer" in text for text in texts)


def test_bench_scores_and_leaves_the_seed_alone(
    family: dict[str, LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> None:
    problems = questions("dev", 30, seed=0)
    seed = AutoModelForCausalLM.from_pretrained(MODELS / solver.SEED_NAME).eval()
    sources = {skill: family[solver.sibling_name(skill)] for skill in SKILLS}
    bench = MergeBench(seed, sources, tokenizer, problems, problems)
    only_first = solver_rules.linear([1.0, 0.0, 0.0])
    expected = measure(sources["add"], tokenizer, problems).share
    assert bench.dev(only_first) == pytest.approx(expected, abs=1 / 30)  # seed + (source - seed) rounds
    assert bench.dev(solver_rules.linear([0.0] * 3)) == measure(family[solver.SEED_NAME], tokenizer, problems).share
    for name, value in seed.named_parameters():
        assert torch.equal(value, dict(family[solver.SEED_NAME].named_parameters())[name])


def test_rules_worked_by_hand() -> None:
    """Two sources, one 1x4 parameter."""
    vectors = [{"w": torch.tensor([[4.0, -1.0, 2.0, 0.5]])}, {"w": torch.tensor([[-2.0, -3.0, 1.0, 0.5]])}]

    def merged(rule: solver_rules.MergeRule) -> list[float]:
        return rule(vectors)["w"].flatten().tolist()

    assert merged(solver_rules.linear([0.5, 2.0])) == [-2.0, -6.5, 3.0, 1.25]
    assert merged(solver_rules.largest(1.0)) == [4.0, -3.0, 2.0, 0.5]
    # Halves kept: (4, 0, 2, 0) and (-2, -3, 0, 0); sums 2, -3, 2, 0: the -2 disagrees.
    assert merged(solver_rules.trimmed(0.5, [1.0, 1.0])) == [2.0, -3.0, 2.0, 0.0]
    assert merged(solver_rules.ties(0.5, 1.0)) == [4.0, -3.0, 2.0, 0.0]
    assert merged(solver_rules.low_rank(1, 1.0)) == pytest.approx([2.0, -4.0, 3.0, 1.0], abs=1e-5)
    norms = [(16 + 1 + 4 + 0.25) ** 0.5, (4 + 9 + 1 + 0.25) ** 0.5]
    first = sum(norms) / 2 * (4 / norms[0] - 2 / norms[1]) / 2
    assert merged(solver_rules.norm_balanced(1.0))[0] == pytest.approx(first, rel=1e-5)


def test_layer_and_kind_scales() -> None:
    one = torch.ones(1)
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
    vectors = [dict.fromkeys(names, one), dict.fromkeys(names, one)]
    assert [v.item() for v in solver_rules.by_layer([1.0, 2.0], embedding=5.0)(vectors).values()] == [10, 2, 4]
    assert [v.item() for v in solver_rules.by_kind(1.0, 2.0, 3.0)(vectors).values()] == [6, 4, 2]


def test_grid_is_the_papers() -> None:
    points = solver_rules.grid_points(3)
    assert len(points) == len(set(points)) == 27
    assert set(sum(points, ())) == {0.2, 0.4, 0.6}


def test_tally_and_interval_worked_by_hand() -> None:
    tally = Tally(correct={"add": 8, "sub": 2}, total={"add": 10, "sub": 10})
    assert tally.share == 0.5
    assert tally.skill_share("add") == 0.8
    # Wilson, 10 of 20: centre 1/2, half width z sqrt(p q / n + z^2 / 4n^2) / (1 + z^2 / n) = 0.2007.
    assert wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_replacing_a_directory_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        solver._replace(target, fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]
    solver._replace(target, lambda directory: (directory / "new").touch())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "new"]
