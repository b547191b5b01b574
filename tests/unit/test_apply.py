"""Applying an algorithm: the same weights whatever the way, and the right way for each algorithm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from selfdev_sandbox import Sandbox

from selfdev.apply.checkpoint import Checkpoint, MemorySink, MemoryTensors, ShardWriter
from selfdev.apply.linear import LinearMerger
from selfdev.apply.memory import allocate
from selfdev.apply.merge import Merge, Request, groups_of, held_bytes, merge_in_memory
from selfdev.apply.output import new_directory
from selfdev.apply.study import Parameter, closed_form, ignores_sizes, study
from selfdev.baselines import read_rule
from selfdev.cli.apply import spread
from selfdev.compute.local import result_hash
from selfdev.errors import StageError, UsageError
from selfdev.models import load_causal_lm
from selfdev.task_vectors import load_task_vectors
from tests.tiny import nudged, save_tiny, tiny_llama

HEAD = "import torch\n\n\ndef merge_models(task_vectors):\n"
LINEAR = HEAD + "    return {n: 0.5 * t + 0.25 * task_vectors[1][n] for n, t in task_vectors[0].items()}\n"
TRIMMED = (
    HEAD
    + """    out = {}
    for name, first in task_vectors[0].items():
        total = torch.zeros_like(first)
        for vector in task_vectors:
            size = vector[name].abs().flatten()
            cut = size.kthvalue(max(1, size.numel() // 2)).values.item()
            total += torch.where(vector[name].abs() > cut, vector[name], 0.0)
        out[name] = 0.5 * total
    return out
"""
)
BY_DEPTH = (
    HEAD
    + """    names = list(task_vectors[0])
    return {n: t.abs() * (1 + i) / len(names) for i, (n, t) in enumerate(task_vectors[0].items())}
"""
)
GLOBAL = (
    HEAD
    + """    norms = [sum(float(t.square().sum()) for t in v.values()) for v in task_vectors]
    share = norms[0] / sum(norms)
    return {n: share * t + (1 - share) * task_vectors[1][n] for n, t in task_vectors[0].items()}
"""
)
ONE_STREAM = (
    HEAD
    + """    torch.manual_seed(3)
    return {n: t * torch.rand(t.shape) for n, t in task_vectors[0].items()}
"""
)
OWN_STREAMS = (
    HEAD
    + """    out = {}
    for n, t in task_vectors[0].items():
        generator = torch.Generator().manual_seed(len(n))
        out[n] = t * (torch.rand(t.shape, generator=generator) < 0.5)
    return out
"""
)
BY_SIZE = (
    HEAD
    + """    return {n: (0.9 if t.numel() > 2000 else 0.1) * t for n, t in task_vectors[0].items()}
"""
)
NEIGHBOUR = (
    HEAD
    + """    last, out = None, {}
    for n, t in task_vectors[0].items():
        out[n] = t if last is None else t * last.abs().mean()
        last = t
    return out
"""
)


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> tuple[str, str, str]:
    """A tiny seed and two models near it; weights in bfloat16 and float32 files."""
    root = tmp_path_factory.mktemp("family")
    seed = tiny_llama(1)
    made = [save_tiny(root / "seed", seed, max_shard_size="20KB")]
    made += [save_tiny(root / f"sibling-{i}", nudged(seed, i, 0.01)) for i in (1, 2)]
    return tuple(str(path) for path in made)


@pytest.fixture(scope="module")
def box():
    with Sandbox() as opened:
        yield opened


def merged(family, tmp_path: Path, text: str, name: str = "out", **options) -> tuple[dict[str, torch.Tensor], Merge]:
    with Merge(Request(text, family[0], family[1:], **options)) as merge:
        with new_directory(tmp_path / name) as directory:
            merge.report = merge.write(directory)
            shutil.copyfile(Path(family[0]) / "config.json", directory / "config.json")
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted((tmp_path / name).glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors, merge


def by_hand(family, text: str, scope="all") -> dict[str, torch.Tensor]:
    """The same in plain PyTorch, with everything in memory."""
    vectors = load_task_vectors(family[0], family[1:], scope=scope)
    space: dict = {}
    exec(compile(text, "algorithm", "exec"), space)
    result = space["merge_models"](list(vectors.vectors))
    weights = {}
    for file in sorted(Path(family[0]).glob("*.safetensors")):
        weights |= load_file(file)
    for name, delta in result.items():
        weights[name] = (weights[name].float() + delta.float()).to(weights[name].dtype)
    return weights


@pytest.mark.parametrize(
    ("text", "way"),
    [
        (LINEAR, "closed form"),
        (TRIMMED, "tensor by tensor"),
        (BY_DEPTH, "tensor by tensor"),
        (OWN_STREAMS, "tensor by tensor"),
        (BY_SIZE, "tensor by tensor"),
        (GLOBAL, "whole model"),
        (ONE_STREAM, "whole model"),
        (NEIGHBOUR, "whole model"),
    ],
    ids=["linear", "trimmed", "by depth", "own streams", "by size", "global", "one stream", "neighbour"],
)
def test_every_way_gives_the_weights_of_plain_pytorch(family, tmp_path, monkeypatch, text, way) -> None:
    monkeypatch.setattr("selfdev.apply.merge.GROUP", 3000)  # several groups
    tensors, merge = merged(family, tmp_path, text)
    assert merge.plan.way == merge.report.way == way
    expected = by_hand(family, text)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        if way == "closed form":
            torch.testing.assert_close(tensors[name], tensor, rtol=1e-6, atol=1e-8)
        else:
            assert torch.equal(tensors[name], tensor), name


def test_exact_runs_the_steps_of_a_linear_program_and_knows_its_hash(family, tmp_path) -> None:
    tensors, merge = merged(family, tmp_path, LINEAR, exact=True)
    assert merge.report.way == "tensor by tensor"
    for name, tensor in by_hand(family, LINEAR).items():
        assert torch.equal(tensors[name], tensor)
    vectors = load_task_vectors(family[0], family[1:]).vectors
    result = {n: 0.5 * t + 0.25 * vectors[1][n] for n, t in vectors[0].items()}
    assert merge.report.result_hash == result_hash(result)


def test_scope_leaves_the_seeds_bits_and_the_result_loads(family, tmp_path) -> None:
    tensors, _ = merged(family, tmp_path, LINEAR, scope="mlp")
    expected = by_hand(family, LINEAR, scope="mlp")
    seed = {}
    for file in sorted(Path(family[0]).glob("*.safetensors")):
        seed |= load_file(file)
    for name in expected:
        changed = not torch.equal(tensors[name], seed[name])
        assert changed == (".mlp." in name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(Path(family[0]) / file, tmp_path / "out" / file)
    model, _ = load_causal_lm(str(tmp_path / "out"))
    torch.testing.assert_close(
        model.model.layers[1].mlp.up_proj.weight.data, expected["model.layers.1.mlp.up_proj.weight"]
    )


def test_the_same_merge_gives_the_same_bytes_in_shards_that_an_index_names(family, tmp_path) -> None:
    for name in ("a", "b"):
        merged(family, tmp_path, OWN_STREAMS, name, shard_bytes=30_000)
    files = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        with safe_open(tmp_path / "a" / file, "pt") as opened:
            assert {name for name, held in index["weight_map"].items() if held == file} == set(opened.keys())
            assert opened.metadata() == {"format": "pt"}
    with Checkpoint(family[0]) as seed:
        assert index["metadata"]["total_size"] == sum(entry.nbytes for entry in seed.entries.values())


def test_bfloat16_output_is_rounded_once(family, tmp_path) -> None:
    tensors, _ = merged(family, tmp_path, LINEAR, dtype=torch.bfloat16)
    expected = by_hand(family, LINEAR)
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor.float(), expected[name], rtol=2**-8, atol=1e-6)


def test_a_failing_program_leaves_nothing_behind(family, tmp_path) -> None:
    bad = HEAD + "    return {n: t / 0.0 for n, t in task_vectors[0].items()}\n"
    with pytest.raises(StageError, match="NaN or infinite"):
        merged(family, tmp_path, bad)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_away_and_what_another_writes_stays(tmp_path) -> None:
    out = tmp_path / "out[1]"
    begin = (
        "import sys, time\nfrom pathlib import Path\nfrom selfdev.apply.output import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as made:\n"
        "    (made / 'weights').write_text('half'); print(made, flush=True); time.sleep(600)\n"
    )
    places = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-c", begin, str(out)], stdout=subprocess.PIPE, text=True, env=os.environ | places
    )
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    with new_directory(out) as made:
        assert left.is_dir()  # its process is alive
        assert made != left
    assert out.is_dir()
    out.rmdir()
    child.kill()
    child.communicate()
    assert left.is_dir()
    with new_directory(out):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out[1]"]


def test_what_depends_on_real_values_only_is_found_during_the_merge(family, tmp_path, monkeypatch) -> None:
    """On stand-ins, all near 0.02, it is tensor by tensor; real task vectors, which are smaller, entangle it."""
    text = HEAD + (
        "    first = next(iter(task_vectors[0].values()))\n    out = {}\n"
        "    for n, t in task_vectors[0].items():\n"
        "        small = 0 < float(t.square().mean()) ** 0.5 < 0.0125\n"
        "        out[n] = t * first.abs().mean() if small else t.abs()\n    return out\n"
    )
    monkeypatch.setattr("selfdev.apply.merge.GROUP", 3000)
    monkeypatch.setattr("selfdev.apply.study._MIXED", ("plain",))
    tensors, merge = merged(family, tmp_path, text)
    assert merge.plan.way == "tensor by tensor"
    assert merge.report.way == "whole model"
    assert "depends on" in merge.report.note
    for name, tensor in by_hand(family, text).items():
        assert torch.equal(tensors[name], tensor)


def test_peak_memory_is_planned_before(family, tmp_path) -> None:
    with (
        Merge(Request(LINEAR, family[0], family[1:])) as linear,
        Merge(Request(GLOBAL, family[0], family[1:])) as whole,
    ):
        assert linear.plan.peak_bytes > 0
        assert whole.study.peak_bytes(10**9, 10**8, 2) >= 2 * 10**9  # at least the result
        assert whole.study.peak_bytes(10**9, 10**8, 2) < 200 * 10**9


def test_the_closed_form_is_worked_by_hand() -> None:
    seed = {"w": torch.tensor([1.0, 2.0, 4.0]), "b": torch.tensor([8.0], dtype=torch.bfloat16)}
    sources = [
        {"w": torch.tensor([2.0, 2.0, 0.0]), "b": torch.tensor([10.0], dtype=torch.bfloat16)},
        {"w": torch.tensor([1.0, 6.0, 4.0]), "b": torch.tensor([4.0], dtype=torch.bfloat16)},
    ]
    sink, merger = MemorySink(seed), LinearMerger(part=2)  # parts of two elements
    for name, tensor in seed.items():
        assert merger.merge(
            name, tensor.numel(), MemoryTensors(seed), [MemoryTensors(s) for s in sources], (0.5, 0.25), sink
        )
    assert sink.tensors["w"].tolist() == [1.5, 3.0, 2.0]
    assert sink.tensors["b"].tolist() == [8.0]  # 8 + 0.5 * 2 - 0.25 * 4
    assert sink.tensors["b"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "coefficients",
    [
        (0.4, 0.4, 0.4),
        (1 / 3, 1 / 3, 1 / 3),
        (1.0, 1.0, 1.0),
        (0.0, -0.5, 2.5),
        (0.3, 0.0, 1.0),
        (0.7, 0.2, 0.1),
        (9.0, 0.1, 0.1),
    ],
)
def test_any_coefficients_come_out_and_equal_sources_leave_the_bits(coefficients) -> None:
    generator = torch.Generator().manual_seed(1)
    seed = {"w": torch.randn(1000, generator=generator)}
    sources = [{"w": seed["w"] + 0.1 * torch.randn(1000, generator=generator)} for _ in coefficients]
    for family in (sources, [seed] * len(coefficients)):
        sink = MemorySink(seed)
        assert LinearMerger(part=300).merge(
            "w", 1000, MemoryTensors(seed), [MemoryTensors(s) for s in family], coefficients, sink
        )
        wide = seed["w"].double()
        expected = wide + sum(c * (s["w"].double() - wide) for c, s in zip(coefficients, family, strict=True))
        torch.testing.assert_close(sink.tensors["w"].double(), expected, rtol=1e-6, atol=1e-6)
        if family is not sources:
            assert torch.equal(sink.tensors["w"], seed["w"])


def test_in_memory_merges_agree_with_the_rule(box) -> None:
    generator = torch.Generator().manual_seed(0)
    seed = {"a.mlp.w": torch.randn(40, 30, generator=generator), "b.norm": torch.randn(30, generator=generator)}
    sources = [{n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in seed.items()} for _ in range(3)]
    mean = merge_in_memory(read_rule("uniform_average"), seed, sources, box=box)
    exact = merge_in_memory(read_rule("uniform_average"), seed, sources, box=box, exact=True)
    for name in seed:
        expected = (sources[0][name] + sources[1][name] + sources[2][name]) / 3
        torch.testing.assert_close(mean[name], expected)
        torch.testing.assert_close(exact[name], expected)
    into = {name: torch.zeros_like(tensor) for name, tensor in seed.items()}
    for text in (read_rule("uniform_average"), TRIMMED):  # linear, and not
        made = merge_in_memory(text, seed, sources, box=box, out=into)
        assert all(made[name] is into[name] for name in seed)
        for name, tensor in merge_in_memory(text, seed, sources, box=box).items():
            assert torch.equal(tensor, into[name])
    with pytest.raises(UsageError, match="in its order"):
        merge_in_memory(LINEAR, seed, [{"b.norm": seed["b.norm"]}], box=box)
    for shape in ((30, 40), (41, 30), (1,)):
        other = sources[0] | {"a.mlp.w": torch.zeros(shape)}
        for text in (LINEAR, TRIMMED):
            with pytest.raises(UsageError, match=r"a.mlp.w is \[40, 30\] in the seed"):
                merge_in_memory(text, seed, [sources[0], other], box=box)
    for wrong in ({"a.mlp.w": into["a.mlp.w"].T}, {"b.norm": torch.zeros(31)}, {"b.norm": into["b.norm"].double()}):
        with pytest.raises(ValueError, match="must be contiguous"):
            merge_in_memory("def merge_models(task_vectors): 1 / 0", seed, sources, box=box, out=into | wrong)


def test_a_seed_without_a_share_is_not_read() -> None:
    class Unread:
        def part(self, name, start, stop):
            raise AssertionError("the seed was read")

    sources = [MemoryTensors({"w": torch.full((5,), value)}) for value in (1.0, 3.0, 5.0)]
    sink = MemorySink({"w": torch.empty(5)})
    assert LinearMerger(part=2).merge("w", 5, Unread(), sources, (1 / 3, 1 / 3, 1 / 3), sink)
    torch.testing.assert_close(sink.tensors["w"], torch.full((5,), 3.0))
    assert LinearMerger(part=2).merge("w", 5, Unread(), sources, (0.0, 1.0, 0.0), sink)
    assert sink.tensors["w"].tolist() == [3.0] * 5
    with pytest.raises(AssertionError):
        LinearMerger(part=2).merge("w", 5, Unread(), sources, (0.5, 0.25, 0.2), sink)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_that_share_memory_are_merged_apart(box, dtype) -> None:
    seed = {name: torch.full((4, 3), value, dtype=dtype) for name, value in (("a", 1.0), ("b", 10.0), ("c", 100.0))}
    source = {name: tensor + 0.5 for name, tensor in seed.items()}
    twice = HEAD + (
        "    first = task_vectors[0]['a'].abs() + 0.5\n"
        "    return {'a': first, 'b': first, 'c': first[:1].expand(4, 3)}\n"
    )
    given = HEAD + "    x = task_vectors[0]\n    return {'a': x['b'], 'b': x['a'].abs(), 'c': x['b']}\n"
    for text, step in ((twice, 1.0), (given, 0.5)):
        made = merge_in_memory(text, seed, [source], box=box)
        assert {name: tensor.unique().tolist() for name, tensor in made.items()} == {
            "a": [1.0 + step],
            "b": [10.0 + step],
            "c": [100.0 + step],
        }


def test_fresh_tensors_are_zero_apart_and_writable(monkeypatch) -> None:
    shapes = {"scalar": (), "none": (0, 4), "half": (3, 5), "wide": (7,), "last": (2, 2)}
    dtypes = dict.fromkeys(shapes, torch.float32) | {"half": torch.bfloat16, "wide": torch.float64}
    for block in (1, 100, 1 << 26):  # bytes
        monkeypatch.setattr("selfdev.apply.memory._BLOCK", block)
        made = allocate({name: (shape, dtypes[name]) for name, shape in shapes.items()})
        assert list(made) == list(shapes)
        for name, tensor in made.items():
            assert tuple(tensor.shape) == shapes[name]
            assert tensor.dtype == dtypes[name]
            assert tensor.is_contiguous()
            assert not tensor.any()
        for number, tensor in enumerate(made.values()):
            tensor.fill_(number + 1)
        assert [tensor.unique().tolist() for tensor in made.values()] == [[1.0], [], [3.0], [4.0], [5.0]]
        for tensor in made.values():  # so that saving or copying one does not take its neighbours along
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert allocate({}) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LINEAR, True),
        (HEAD + "    return {n: torch.zeros(t.shape) + 0.5 * t for n, t in task_vectors[0].items()}\n", True),
        (HEAD + "    return {n: torch.zeros(t.size()) + 0.5 * t for n, t in task_vectors[0].items()}\n", True),
        (BY_SIZE, False),
        (HEAD + "    return {n: t * t.shape[0] for n, t in task_vectors[0].items()}\n", False),
        (HEAD + "    return {n: t / len(t.shape) for n, t in task_vectors[0].items()}\n", False),
        (HEAD + "    return {n: t / getattr(t, 'numel')() for n, t in task_vectors[0].items()}\n", False),
        (HEAD + "    return {n: t * t.size(0) for n, t in task_vectors[0].items()}\n", False),
    ],
)
def test_a_closed_form_needs_a_program_that_ignores_sizes(text, expected) -> None:
    assert ignores_sizes(text) is expected


def test_coefficients_may_differ_by_parameter(box) -> None:
    text = HEAD + (
        "    return {n: (0.3 if '.mlp.' in n else 0.7) * t - 0.1 * task_vectors[1][n] "
        "for n, t in task_vectors[0].items()}\n"
    )
    parameters = {name: Parameter((64, 32), torch.float32) for name in ("l.0.mlp.w", "l.0.attn.w")}
    found = closed_form(box, text, 0, parameters, 2)
    assert found is not None
    assert [round(c, 6) for c in found["l.0.mlp.w"]] == [0.3, -0.1]
    assert [round(c, 6) for c in found["l.0.attn.w"]] == [0.7, -0.1]


def test_the_study_measures_what_an_element_costs(box) -> None:
    parameters = {f"l.{i}.w": Parameter((64, 64), torch.float32) for i in range(4)}
    stacked = HEAD + (
        "    return {n: torch.stack([v[n] for v in task_vectors]).abs().amax(dim=0) for n in task_vectors[0]}\n"
    )
    found = study(box, stacked, 0, parameters, 3)
    assert found.obstacle is None
    assert found.alone
    assert found.single == pytest.approx(24, abs=1)  # the stack of three sources and its magnitudes, in float32
    assert found.peak_bytes(10**6, 10**6, 4) > 24 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ties", "della", "dare_ties", "breadcrumbs"])
def test_seven_billion_parameters_fit_into_24_gib(box, rule) -> None:
    from transformers import MistralConfig

    from selfdev.models import groups_of as parameters_of

    config = MistralConfig(
        vocab_size=32_002, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    shapes = {name: tuple(shape) for name, (shape, _) in parameters_of(config).items()}
    parameters = {name: Parameter(shape, torch.bfloat16) for name, shape in shapes.items()}
    text = read_rule(rule, TRIM="tensor") if rule == "ties" else read_rule(rule)
    found = study(box, text, 0, parameters, 3)
    assert found.obstacle is None
    needed = max(held_bytes(found, parameters, names, 3) for names in groups_of(parameters))
    assert needed < 22 * 2**30


def test_a_program_that_fails_on_small_tensors_sees_the_whole_model(box) -> None:
    parameters = {"w": Parameter((200, 200), torch.float32)}
    text = HEAD + "    return {n: t - t.flatten().topk(20000).values.amin() for n, t in task_vectors[0].items()}\n"
    found = study(box, text, 0, parameters, 1)
    assert found.obstacle is not None
    assert found.obstacle.startswith("on small tensors it ends as")


def test_shards_take_parts_in_any_order(tmp_path) -> None:
    writer = ShardWriter(tmp_path, {"a": ("F32", (4,), 16), "b": ("BF16", (2, 2), 8)}, 16)
    writer.put("b", 2, torch.tensor([3.0, 4.0]))
    writer.put("a", 0, torch.arange(4.0))
    writer.put("b", 0, torch.tensor([1.0, 2.0]))
    writer.close()
    assert writer.files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert load_file(tmp_path / writer.files[0])["a"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert load_file(tmp_path / writer.files[1])["b"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_sources_are_spread() -> None:
    given = ["a.py", "--sources", "A", "B", "--out", "o", "--sources", "C", "b.py"]
    assert spread(given, "--sources") == [
        "a.py", "--sources", "A", "--sources", "B", "--out", "o", "--sources", "C", "b.py",
    ]  # fmt: skip


def test_norms_are_bounded_as_in_a_search(family, tmp_path) -> None:
    huge = HEAD + "    return {n: t.abs() * 1000 for n, t in task_vectors[0].items()}\n"
    with pytest.raises(StageError, match="norm of the merged"):
        merged(family, tmp_path, huge)
