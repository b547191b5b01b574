"""What every verifier must do, asked of all of them; then numbers worked by hand and by plain forward passes."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfdev.errors import StageError, UsageError
from selfdev.prompting import render_prompt
from selfdev.verifiers.base import UNREAD, Response, Verifier
from selfdev.verifiers.model import QUALITY, TRUE_FALSE, ImplicitReward, Quality, TrueFalse, check_questions
from selfdev.verifiers.recorded import Likelihood, Majority
from selfdev.verifiers.scorer import TransformersScorer
from selfdev.verifiers.scripted import ScriptedVerifier
from tests.conformance.test_generators import _save_adapter
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer

TASK = "Write a merge function:\n"
TEXTS = ("return a\n", "return the mean of all of them\n", "", "x", "return a + b\n", "no")
RESPONSES = [Response(t, len(t) + 1, 0.7 * len(t), answer) for t, answer in zip(TEXTS, "abacac", strict=True)]
KINDS = ("scripted", "likelihood", "majority", "true-false", "quality", "implicit-reward")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("judge"), tiny_llama(std=0.2))


@pytest.fixture(scope="module")
def scorer(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TransformersScorer:
    made = TransformersScorer(str(model_dir), "cpu", batch_size=4)
    made.load(_save_adapter(model_dir, tmp_path_factory.mktemp("adapter"), scale=0.5))
    return made


@pytest.fixture(scope="module")
def verifiers(scorer: TransformersScorer) -> dict[str, Verifier]:
    made: list[Verifier] = [
        ScriptedVerifier("scripted", lambda text: len(text) / 100), Likelihood(), Majority(), TrueFalse(scorer, TASK),
        Quality(scorer, TASK), ImplicitReward(scorer, TASK, beta=0.5),
    ]  # fmt: skip
    return {verifier.name: verifier for verifier in made}


@pytest.mark.parametrize("kind", KINDS)
def test_one_score_in_0_to_1_per_response_in_order(kind: str, verifiers: dict[str, Verifier]) -> None:
    verifier = verifiers[kind]
    assert verifier.name == kind
    scores = [j.score for j in verifier.score(RESPONSES)]
    assert len(scores) == len(RESPONSES)
    assert all(0 <= s <= 1 for s in scores)
    assert len(set(scores)) > 1
    backwards = [j.score for j in verifier.score(RESPONSES[::-1])]
    assert backwards[::-1] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "majority"])
def test_a_score_does_not_depend_on_the_others(kind: str, verifiers: dict[str, Verifier]) -> None:
    together = [j.score for j in verifiers[kind].score(RESPONSES)]
    alone = [verifiers[kind].score([response])[0].score for response in RESPONSES]
    assert alone == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_score(kind: str, verifiers: dict[str, Verifier]) -> None:
    assert verifiers[kind].score([]) == []


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_likelihood_by_hand() -> None:
    # 3 nats over 4 tokens: e^-0.75
    [judged] = Likelihood().score([Response("text", 4, 3.0)])
    assert judged.score == pytest.approx(0.4723665527)
    assert judged.nll == 3.0


def test_majority_by_hand() -> None:
    answers = ["7", "7", None, "3", "7"]
    assert [j.score for j in Majority().score([Response("", 1, 1.0, a) for a in answers])] == [0.6, 0.6, 0, 0.2, 0.6]


def plain_nll(model: torch.nn.Module, prompt: str, text: str) -> float:
    """The log-likelihood by one forward pass over everything, without a cache, a batch or padding."""
    tokenizer = tiny_tokenizer()
    first, rest = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
    if not rest:
        return 0.0
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([first + rest])).logits[0]
    logs = torch.log_softmax(logits[len(first) - 1 : -1].double(), -1)
    return -float(logs.gather(1, torch.tensor(rest)[:, None]).sum())


def test_likelihoods_are_those_of_a_plain_forward_pass(scorer: TransformersScorer, model_dir: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    expected = [plain_nll(base, TASK, text) for text in TEXTS]
    assert scorer.nll(TASK, TEXTS, base=True) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    own = scorer.nll(TASK, TEXTS)
    assert own == pytest.approx([plain_nll(scorer._model, TASK, text) for text in TEXTS], rel=1e-4, abs=1e-6)
    assert own[0] != pytest.approx(expected[0], rel=1e-2)  # the adapter is on


def test_an_implicit_reward_is_the_log_ratio(scorer: TransformersScorer, verifiers: dict[str, Verifier]) -> None:
    for text, judged in zip(TEXTS, verifiers["implicit-reward"].score(RESPONSES), strict=True):
        assert judged.nll is not None
        assert judged.reference_nll is not None
        reward = 0.5 * (judged.reference_nll - judged.nll)
        assert log(judged.score) - log(1 - judged.score) == pytest.approx(reward, abs=1e-6)
        assert (judged.score == 0.5) == (text == "")


def test_without_an_adapter_there_is_no_implicit_reward(model_dir: Path) -> None:
    scorer = TransformersScorer(str(model_dir), "cpu", batch_size=4)
    scorer.load(None)
    assert {j.score for j in ImplicitReward(scorer, TASK, 1.0).score(RESPONSES)} == {0.5}


def next_logs(scorer: TransformersScorer, prompt: str) -> torch.Tensor:
    with torch.inference_mode():
        ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])
        return torch.log_softmax(scorer._model(input_ids=ids).logits[0, -1].double(), -1)


def test_true_false_is_the_share_of_the_next_token(scorer: TransformersScorer, verifiers: dict[str, Verifier]) -> None:
    # one token is one byte: " True" and " False" begin with the same space, so that only T and F tell them apart
    for response, judged in zip(RESPONSES, verifiers["true-false"].score(RESPONSES), strict=True):
        logs = next_logs(scorer, render_prompt(TRUE_FALSE, task=TASK, answer=response.text))
        true, false = (exp(float(logs[tiny_tokenizer()(mark)["input_ids"][0]])) for mark in "TF")
        assert judged.score == pytest.approx(true / (true + false), abs=1e-5)


def test_quality_is_the_expected_grade(scorer: TransformersScorer, verifiers: dict[str, Verifier]) -> None:
    [judged] = verifiers["quality"].score(RESPONSES[:1])
    logs = next_logs(scorer, render_prompt(QUALITY, task=TASK, answer=TEXTS[0], grades=tuple("EDCBA")))
    shares = torch.tensor([exp(float(logs[tiny_tokenizer()(mark)["input_ids"][0]])) for mark in "EDCBA"])
    expected = float((shares / shares.sum() * torch.tensor([0, 0.25, 0.5, 0.75, 1])).sum())
    assert judged.score == pytest.approx(expected, abs=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: Quality(s, TASK, "1-10"), r"does not tell 1, 2, .*, 10 apart by their first token; give another"),
        (lambda s: ImplicitReward(s, TASK * 300, 1.0), "exceeds the 4096 positions"),
        (lambda s: TrueFalse(s, TASK * 300), "exceeds the 4096 positions"),
        (lambda s: ImplicitReward(s, "", 1.0), "the prompt is empty"),
    ],
)
def test_refusals(make: Callable[[TransformersScorer], Verifier], words: str, scorer: TransformersScorer) -> None:
    with pytest.raises(UsageError, match=words):
        make(scorer).score(RESPONSES)


def test_no_chat_template(model_dir: Path) -> None:
    scorer = TransformersScorer(str(model_dir), "cpu", batch_size=4, chat_template=True)
    scorer.load(None)
    with pytest.raises(UsageError, match="no chat template"):
        TrueFalse(scorer, TASK).score(RESPONSES)


def test_with_a_chat_template_the_question_is_a_user_message(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    tokenizer.save_pretrained(save_tiny(tmp_path, tiny_llama(std=0.2)))
    plain, chat = (TransformersScorer(str(tmp_path), "cpu", batch_size=4, chat_template=c) for c in (False, True))
    plain.load(None)
    chat.load(None)
    wrapped = plain.next_token([f"<user>{text}<assistant>" for text in TEXTS], ("True", "False"))
    asked = chat.next_token(TEXTS, ("True", "False"))
    assert [true for true, _ in asked] == pytest.approx([true for true, _ in wrapped], abs=1e-5)
    assert plain.next_token(TEXTS[:1], ("True", "False"))[0] != pytest.approx(wrapped[0], abs=1e-3)


@pytest.mark.parametrize(
    ("names", "scale", "chat", "longest", "words"),
    [
        (("likelihood", "quality"), "1-10", False, 10, "does not tell 1, 2, "),
        (("true-false",), "A-E", True, 10, "no chat template"),
        (("true-false",), "A-E", False, 4096, "exceed the 4096 positions"),
    ],
)
def test_what_cannot_be_asked_is_refused_beforehand(
    names: tuple[str, ...], scale: str, chat: bool, longest: int, words: str, model_dir: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        check_questions(names, str(model_dir), chat, TASK, scale, longest)
    check_questions(("likelihood", "implicit-reward", "majority"), "no model is asked", chat, TASK, scale, longest)
    check_questions(("true-false", "quality"), str(model_dir), False, TASK, "A-E", 100)


# -- what must not end a run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TransformersScorer:
    """With room for 600 tokens."""
    model = tiny_llama(std=0.2)
    model.config.max_position_embeddings = 600
    made = TransformersScorer(str(save_tiny(tmp_path_factory.mktemp("small"), model)), "cpu", batch_size=4)
    made.load(None)
    return made


@pytest.mark.parametrize("kind", ["true-false", "quality", "implicit-reward"])
def test_a_text_that_does_not_fit_is_not_passed_and_the_others_are_judged(kind: str, small: TransformersScorer) -> None:
    task = "Do:\n"
    made = {
        "true-false": TrueFalse(small, task), "quality": Quality(small, task),
        "implicit-reward": ImplicitReward(small, task, 0.5),
    }  # fmt: skip
    verifier: Verifier = made[kind]  # type: ignore[assignment]
    long = Response("x" * 700, 700, 1.0)
    judged = verifier.score([RESPONSES[0], long, RESPONSES[1]])
    assert judged[1] == UNREAD
    alone = [j.score for j in verifier.score([RESPONSES[0], RESPONSES[1]])]
    assert [judged[0].score, judged[2].score] == pytest.approx(alone, abs=1e-5)
    assert verifier.score([long]) == [UNREAD]


def test_numbers_that_are_not_finite_are_no_judgement(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Diverged:
        config = scorer._model.config

        def __call__(self, input_ids: torch.Tensor, **rest: object) -> object:
            out = scorer_model(input_ids=input_ids, **rest)
            out.logits[(input_ids == plus_id).any(1)] = torch.nan
            return out

    scorer_model, [plus_id] = scorer._model, tiny_tokenizer()("+")["input_ids"]
    plus = [i for i, text in enumerate(TEXTS) if "+" in text]
    monkeypatch.setattr(scorer, "_model", Diverged())
    monkeypatch.setattr(scorer, "_adapted", False)
    found = scorer.nll(TASK, TEXTS)
    assert plus
    assert [i for i, value in enumerate(found) if value is None] == plus
    assert [i for i, j in enumerate(ImplicitReward(scorer, TASK, 0.5).score(RESPONSES)) if j == UNREAD] == plus


def test_a_batch_for_which_there_is_no_room_is_cut_in_two(
    scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, asked = scorer.nll(TASK, TEXTS), scorer.next_token(TEXTS[:2] + TEXTS[3:], ("True", "False"))
    model, sizes, most = scorer._model, [], 1

    class Full:
        config = model.config

        def __call__(self, input_ids: torch.Tensor, **rest: object) -> object:
            if len(input_ids) > most:
                raise torch.OutOfMemoryError
            sizes.append(len(input_ids))
            return model(input_ids=input_ids, **rest)

    monkeypatch.setattr(scorer, "_model", Full())
    assert scorer.nll(TASK, TEXTS) == pytest.approx(expected, rel=1e-4)
    assert sizes == [1] * 7  # the prompt, six texts
    found = scorer.next_token(TEXTS[:2] + TEXTS[3:], ("True", "False"))
    for row, wanted in zip(found, asked, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
    most = 0
    with pytest.raises(StageError, match=r"no room for one text of \d+ tokens under .*; free some of its memory"):
        scorer.nll(TASK, TEXTS)


def test_the_logits_of_a_batch_are_bounded(scorer: TransformersScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the longest text's length and no more, and rows of one length go together."""
    expected, model, shapes = scorer.nll(TASK, TEXTS), scorer._model, []

    class Noting:
        config = model.config

        def __call__(self, input_ids: torch.Tensor, **rest: object) -> object:
            shapes.append(tuple(input_ids.shape))
            return model(input_ids=input_ids, **rest)

    longest = max(map(len, TEXTS))
    monkeypatch.setattr("selfdev.verifiers.scorer.LOGIT_BYTES", 4 * model.config.vocab_size * 2 * longest)
    monkeypatch.setattr(scorer, "_model", Noting())
    assert scorer.nll(TASK, TEXTS) == pytest.approx(expected, rel=1e-4)
    assert shapes[1:3] == [(2, longest), (4, len("return a\n"))]
