"""A byte-level BPE small enough to train in milliseconds, with ChatML control tokens, and its TextAssets."""

from __future__ import annotations

import functools

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from flash_runtime.text.assets import TextAssets, TextHeader

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS_ID = CONTROL.index("<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog, hello world, how are you? assistant user system"] * 4


@functools.cache
def tokenizer_json() -> bytes:
    """A trained tokenizer: 256 bytes, three control tokens, some merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True) for text in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str().encode()


def byte_fallback_json() -> bytes:
    """The other family: pieces with `▁` for a space, and a token for each byte."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for piece in ("▁", *"abcdefghijklmnopqrstuvwxyz", "▁hello", "▁world"):
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer.to_str().encode()


def text_assets(
    *,
    chat_template: str = CHATML,
    add_bos: bool = False,
    bos_token: str | None = "<|endoftext|>",
    max_context_tokens: int | None = 512,
) -> TextAssets:
    """Assets around the tiny tokenizer."""
    return TextAssets(
        tokenizer_json=tokenizer_json(),
        header=TextHeader(
            chat_template=chat_template,
            bos_token=bos_token,
            eos_token="<|im_end|>",
            eos_token_ids=(EOS_ID,),
            add_bos=add_bos,
        ),
        max_context_tokens=max_context_tokens,
        fingerprint="0123456789abcdef",
    )
