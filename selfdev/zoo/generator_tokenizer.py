"""The zoo generator's tokenizer: a small byte-level BPE trained on grammar programs and the generator prompt.

Any text can be encoded (byte fallback through the byte-level alphabet). The opening fence with its newline is one
indivisible token, so the tokens of a prompt that ends with it are always a prefix of the tokens of prompt + completion,
whatever the completion begins with.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfdev.zoo.grammar import write_program

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
FENCE_OPEN, FENCE_CLOSE = "```python\n", "```"
VOCABULARY = 1024
CONTEXT = 1024

# Newlines with the indentation that follows; names with a leading dot and an opening bracket; numbers; the rest.
PIECES = (
    r"\n+ *"
    r"| ?\.?[A-Za-z_]+(?:\(\)|\(|\[)?"
    r"| ?\d+(?:\.\d+)?(?:e-?\d+)?"
    r"| ?(?:(?!\.[A-Za-z_])[^\sA-Za-z_\d])+"
    r"|\s+"
)


def completion(program: str) -> str:
    """What the generator is to write after the prompt: the program, the closing fence, the end token."""
    return program + FENCE_CLOSE + EOS


def train_tokenizer(prompt: str, seed: int, programs: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `VOCABULARY` tokens, trained on `programs` grammar programs and the prompt."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,  # one more for the opening fence
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(prompt, seed, programs), trainer)
    tokenizer.add_tokens([AddedToken(FENCE_OPEN, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _corpus(prompt: str, seed: int, programs: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer-{seed}")
    for _ in range(programs):
        yield write_program(rng) + FENCE_CLOSE
    for _ in range(max(1, programs // 20)):  # often enough that the prompt is short in tokens
        yield prompt
