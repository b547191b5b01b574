"""Prompts: found, rendered, hashed; the generator prompt as a golden text."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfdev.errors import UsageError
from selfdev.prompting import prompts_dir, read_prompt, render_prompt, text_hash

GOLDEN = Path(__file__).parents[1] / "golden" / "generator_prompt.txt"


def test_the_generator_prompt_is_the_golden_one() -> None:
    """A change of this text is a change of the method: the zoo's generator was trained on it."""
    assert render_prompt("generator/merge.md.jinja") == GOLDEN.read_text("utf-8")


def test_the_generator_prompt_ends_inside_a_code_block_on_a_newline() -> None:
    assert render_prompt("generator/merge.md.jinja").endswith("\n```python\n")


@pytest.mark.parametrize("name", ["generator/nothing.jinja", "../pyproject.toml", "generator"])
def test_what_is_not_a_prompt_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"no prompt .*generator/merge\.md\.jinja"):
        read_prompt(name)


def test_a_missing_variable_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jinja").write_text("Merge {{ count }} models.\n")
    monkeypatch.setattr("selfdev.prompting.prompts_dir", lambda: tmp_path)
    assert render_prompt("x.jinja", count=3) == "Merge 3 models.\n"
    with pytest.raises(UsageError, match="does not render"):
        render_prompt("x.jinja")


def test_hashes_and_folder() -> None:
    assert text_hash("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (prompts_dir() / "README.md").is_file()
