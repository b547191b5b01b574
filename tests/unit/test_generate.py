"""Schedule, streams and program extraction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfdev.generate import extract_program, sample_requests, stream_seed, temperature

BODY = "def merge_models(task_vectors):\n    return task_vectors[0]\n"
CODE = "import torch\n\n\n" + BODY


@pytest.mark.parametrize(("iteration", "expected"), [(1, 1.2), (2, 1.0), (3, 1.2 / 1.4), (4, 0.75)])
def test_temperature_follows_the_paper(iteration: int, expected: float) -> None:
    assert temperature(iteration) == pytest.approx(expected)


def test_temperature_without_decay_stays() -> None:
    assert temperature(7, start=0.9, decay=0.0) == 0.9


def test_stream_seed_is_a_fixed_function() -> None:
    # printf '[0, "generate", 1, 0]' | sha256sum | cut -c1-16, shifted right by one.
    assert stream_seed(0, "generate", 1, 0) == 0x23CFB89CB7235D1F >> 1


@given(st.integers(0, 2**63 - 1), st.integers(1, 9), st.integers(0, 10**6))
def test_stream_seeds_fit_a_signed_integer_and_differ(run_seed: int, iteration: int, index: int) -> None:
    seed = stream_seed(run_seed, "generate", iteration, index)
    others = {
        stream_seed(run_seed + 1, "generate", iteration, index),
        stream_seed(run_seed, "execute", iteration, index),
        stream_seed(run_seed, "generate", iteration + 1, index),
        stream_seed(run_seed, "generate", iteration, index + 1),
    }
    assert 0 <= seed < 2**63
    assert len({seed, *others}) == 5


def test_requests_do_not_depend_on_which_are_asked_for() -> None:
    assert sample_requests(5, 2, range(10))[6:8] == sample_requests(5, 2, [6, 7])


CASES = {
    # name: (completion, source)
    "bare": (CODE, CODE),
    "bare, then the closing fence": (CODE + "```", CODE),
    "closing fence on the last line of code": (CODE.rstrip() + "```", CODE),
    "closing fence, then prose": (CODE + "```\nThis merges the models.\n", CODE),
    "closing fence, then a second version": (CODE + "```\n\n```python\n" + BODY + "```", CODE),
    "fenced": ("```python\n" + CODE + "```", CODE),
    "fenced, no language": ("```\n" + CODE + "```", CODE),
    "fenced, another tag": ("```py3\n" + CODE + "```", CODE),
    "space before the tag": ("``` python\n" + CODE + "```", CODE),
    "four backticks": ("````python\n" + CODE + "````", CODE),
    "prose around the fence": ("Sure, here you go:\n\n```python\n" + CODE + "```\nIt averages.", CODE),
    "unterminated fence": ("Here:\n```python\n" + CODE, CODE),
    "the first block is something else": ("```bash\npip install torch\n```\nthen\n```python\n" + CODE + "```", CODE),
    "two blocks with a definition": ("```\n" + CODE + "```\nor\n```\n" + BODY.replace("0", "1") + "```", CODE),
    "windows line ends": ("```python\r\n" + CODE.replace("\n", "\r\n") + "```\r\n", CODE),
    "old macintosh line ends": (CODE.replace("\n", "\r"), CODE),
    "indented block": ("1. Write\n\n   ```python\n   " + CODE.replace("\n", "\n   ") + "```", CODE),
    "trailing space": (CODE.replace("\n", "   \n"), CODE),
    "blank lines around": ("\n\n\n" + CODE + "\n\n\n", CODE),
    "no last newline": (CODE.rstrip(), CODE),
    "prose before bare code": ("Sure! Here is the function:\n\n" + CODE, CODE),
    "prose after bare code": (CODE + "\nThis function returns the first one.\nIt is simple.\n", CODE),
    "one word after bare code": (CODE + "\nDone.\n", CODE),
    "list after bare code": (CODE + "\n- It is short\n- It is fast\n", CODE),
    "annotated signature": (
        "def merge_models(task_vectors: list[dict]) -> dict:\n    return task_vectors[0]\n",
        "def merge_models(task_vectors: list[dict]) -> dict:\n    return task_vectors[0]\n",
    ),
    "comment at the margin": ("# Keep the first one here\n" + BODY, "# Keep the first one here\n" + BODY),
    "module docstring": ('"""Merge it\nin a simple way\n"""\n' + BODY, '"""Merge it\nin a simple way\n"""\n' + BODY),
    "constants before": (
        "import torch\nSCALE: float = 0.3\nA, B = 1, 2\n" + BODY,
        "import torch\nSCALE: float = 0.3\nA, B = 1, 2\n" + BODY,
    ),
    "helpers after": (BODY + "\n\ndef other(x):\n    return x\n", BODY + "\n\ndef other(x):\n    return x\n"),
    "broken code comes out as it is": (
        "def merge_models(task_vectors:\n  retrun 1\n",
        "def merge_models(task_vectors:\n  retrun 1\n",
    ),
    "cut off": (
        "import torch\n\ndef merge_models(task_vectors):\n    merged = {",
        "import torch\n\ndef merge_models(task_vectors):\n    merged = {\n",
    ),
    "empty": ("", None),
    "prose only": ("I cannot write that function.", None),
    "the name in a sentence": ("First, def merge_models(x) is what we need.", None),
    "another function": ("```python\ndef merge(task_vectors):\n    return 0\n```", None),
    "a longer name": ("def merge_models_now(task_vectors):\n    return 0\n", None),
    "a call only": ("merge_models(task_vectors)\n", None),
    "a class of that name": ("class merge_models:\n    pass\n", None),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_extract_program(text: str, expected: str | None) -> None:
    assert extract_program(text) == expected


def test_extraction_never_runs_the_code() -> None:
    assert extract_program("raise SystemExit\n" + BODY) == "raise SystemExit\n" + BODY


@given(st.text(alphabet="`\n\r\t ab=:'\"-#def merge_models(x)", max_size=200))
def test_extraction_is_total_and_stable(text: str) -> None:
    source = extract_program(text + "\n" + BODY)
    assert source is not None
    assert "def merge_models" in source
    assert "`" * 3 not in source
    assert source.endswith("\n")
    assert extract_program(source) == source
