"""Chat templates: one user message, and the beginning-of-sequence token exactly once when an engine tokenises it."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from selfdev.errors import ModelError
from selfdev.grading.gsm8k import grade_strict
from selfdev.tasks.base import Task
from selfdev.tasks.chat import render_chat, with_chat
from selfdev.types import Question
from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def tokenizer(
    template: str | None = TEMPLATE, begin: str | None = "<s>", *, adds: bool = False
) -> PreTrainedTokenizerFast:
    """Byte tokens; a beginning-of-sequence token that is put in front by itself where `adds`."""
    made = tiny_tokenizer()
    if begin is not None:
        made.add_special_tokens({"bos_token": begin})
    if adds:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, made.bos_token_id)]
        )
    made.chat_template = template
    return made


@pytest.mark.parametrize("adds", [False, True])
def test_the_prompt_begins_with_one_beginning_of_sequence_token(adds: bool) -> None:
    made = tokenizer(adds=adds)
    text = render_chat("1 + 1?", made)
    assert text == ("" if adds else "<s>") + "<user>1 + 1?<model>"
    ids = made(text)["input_ids"]
    assert ids[0] == made.bos_token_id
    assert ids.count(made.bos_token_id) == 1
    assert ids == made.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True, return_dict=False
    )


def test_a_template_without_the_token_is_left_alone() -> None:
    assert render_chat("q", tokenizer(TEMPLATE.removeprefix("{{ bos_token }}"), adds=True)) == "<user>q<model>"
    assert render_chat("q", tokenizer(begin=None)) == "<user>q<model>"


def test_the_users_own_text_is_not_taken_for_the_token() -> None:
    made = tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}:", adds=False)
    assert render_chat("<s> marks a sentence", made) == "<s> marks a sentence:"


def test_every_prompt_of_a_task_is_wrapped_whole() -> None:
    def question(split: str) -> Question:
        return Question(f"{split}-1", f"Question: a\nAnswer: 1\n\nQuestion: {split}\nAnswer:", "2", "add")

    task = Task("t", (question("dev"),), (question("test"),), ("Question:",), 8, grade_strict, notes=("n",))
    wrapped = with_chat(task, tokenizer())
    assert wrapped.dev[0].prompt == "<s><user>Question: a\nAnswer: 1\n\nQuestion: dev\nAnswer:<model>"
    assert wrapped.test[0].prompt == "<s><user>Question: a\nAnswer: 1\n\nQuestion: test\nAnswer:<model>"
    assert (wrapped.dev[0].id, wrapped.dev[0].gold, wrapped.stop, wrapped.notes) == (
        "dev-1", "2", ("Question:",), ("n",),
    )  # fmt: skip


def test_templates_that_cannot_serve() -> None:
    with pytest.raises(ModelError, match="has no chat template; leave out the chat template setting"):
        render_chat("q", tokenizer(None))
    refuses = "{{ raise_exception('a system message is needed') }}"
    with pytest.raises(ModelError, match="fails on one user message: a system message is needed"):
        render_chat("q", tokenizer(refuses))
    with pytest.raises(ModelError, match="fails on one user message"):
        render_chat("q", tokenizer("{% for m in messages %}"))
