"""The solvers' tokenizer: byte-level BPE in which a digit is always one token and a frequent word is one token.

Short sequences are the point: a prompt takes about 22 tokens, an answer at most 15, so that 100 questions are answered
in a fraction of a second on one core. Any text can be encoded (bytes are the base alphabet). Loads with
`AutoTokenizer`, no custom code. No begin token is put in front, so `add_special_tokens` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
MAX_VOCABULARY = 1024  # merges end earlier: words never join

# Pieces that merges cannot cross: one digit; the closing line's marker; "Question:" and "Answer:" with the line break
# before them; an operator with its blanks; a word with the blank before it; other white space.
_PIECES = r"\d|\n#### ?|\n?[A-Z][a-z]+:| [+*=\-] | ?[^\s\d]+|\s+"


def build_tokenizer(texts: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts`; `max_length` (tokens) is the model's context, written into the configuration."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, EOS],
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
