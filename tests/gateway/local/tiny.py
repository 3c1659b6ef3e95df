"""Models of some hundred kilobytes, made on the fly, for the real engine: nothing is downloaded, and all is seconds.

`scripted` answers one sentence to whatever it is asked: its only layer adds nothing, and its output is a table of which
word follows which. `ternary` has BitNet's architecture and weights of three values, `embedder` BERT's. The weights of
both are random, but always the same.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: it writes the models")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'gimle[local]'")

SAYS = "Hello from the tiny test model: retrieval works [1]."
TEMPLATE = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ (m['content'] | trim) + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
Array = npt.NDArray[np.float32]


def scripted(path: Path, says: str = SAYS, *, context: int = 2048, double: bool = False) -> Path:
    """A model that says this, whose words must all be different; with a space at its end, it says so for ever.

    With `double`, a word stands in its vocabulary twice: it looks sound, and has the engine abort.
    """
    words = re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]", says)
    assert len(set(words)) == len(words)
    tokens, kinds, merges = _vocabulary([*words, "\n\n"])
    if double:
        tokens[0] = tokens[1]
    count = len(tokens)
    width = -(-count // 256) * 256
    writer = gguf.GGUFWriter(path, "llama")
    _head(writer, width=width, layers=1, vocabulary=count, context=context, kind=gguf.LlamaFileType.MOSTLY_F16)
    at = _tokens(writer, tokens, kinds, merges)
    known = [at["\n\n".translate(_CHARACTERS)], *(at[word.translate(_CHARACTERS)] for word in words)]
    chain = [*known, known[1] if says.endswith(" ") else at["<|eot_id|>"]]
    follows = np.zeros((count, width), np.float32)
    for before, after in zip(chain, chain[1:], strict=False):
        follows[after, before] = 4.0
    # From anywhere else, it begins.
    follows[known[1], [token for token in range(count) if token not in chain]] = 4.0
    alike = np.zeros((count, width), np.float32)
    alike[np.arange(count), np.arange(count)] = 1.0
    _put(writer, "token_embd.weight", alike, "F16")
    _put(writer, "output.weight", follows, "F16")
    random = np.random.default_rng(0)
    _layer(writer, 0, width, lambda rows, columns: random.normal(0, 0.02, (rows, columns)), "F16", silent=True)
    return _written(writer, path)


def ternary(path: Path, quantised: str = "TQ2_0", *, width: int = 256, layers: int = 2) -> Path:
    """A model with BitNet's architecture, its weights stored as TQ1_0, TQ2_0, or in full as F16. It talks nonsense."""
    tokens, kinds, merges = _vocabulary(["\n\n", " the", " a", " is"])
    writer = gguf.GGUFWriter(path, "bitnet")
    kind = {"TQ2_0": gguf.LlamaFileType.MOSTLY_TQ2_0, "TQ1_0": gguf.LlamaFileType.MOSTLY_TQ1_0}
    _head(writer, width=width, layers=layers, vocabulary=len(tokens), context=2048, heads=(4, 4),
          kind=kind.get(quantised, gguf.LlamaFileType.MOSTLY_F16))  # fmt: skip
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(1.0)
    _tokens(writer, tokens, kinds, merges)
    random = np.random.default_rng(0)

    def three(rows: int, columns: int) -> Any:
        drawn = random.normal(0, 0.05, (rows, columns))
        mean = np.abs(drawn).mean()
        return np.clip(np.round(drawn / mean), -1, 1) * mean

    _put(writer, "token_embd.weight", random.normal(0, 0.02, (len(tokens), width)), "F16")
    for layer in range(layers):
        _put(writer, f"blk.{layer}.attn_sub_norm.weight", np.ones(width), "F32")
        _put(writer, f"blk.{layer}.ffn_sub_norm.weight", np.ones(2 * width), "F32")
        _layer(writer, layer, width, three, quantised, heads=(4, 4))
    return _written(writer, path)


def embedder(path: Path, *, width: int = 64, ranks: bool = False) -> Path:
    """A model with BERT's architecture that makes one vector of each text; or, if it `ranks`, one number of two."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-()"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = special + ["\u2581" + letter for letter in letters] + list(letters)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    control, unknown, normal = gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN, gguf.TokenType.NORMAL
    writer.add_token_types([control, unknown, control, control, control] + [normal] * (len(vocabulary) - 5))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_unk_token_id(1)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return random.normal(0, 0.1, shape)

    _put(writer, "token_embd.weight", draw(len(vocabulary), width), "F16")
    _put(writer, "token_types.weight", draw(2, width), "F32")
    if ranks:
        for name, rows in (("cls", width), ("cls.output", 1)):
            _put(writer, f"{name}.weight", draw(rows, width), "F32")
            _put(writer, f"{name}.bias", draw(rows), "F32")
    _put(writer, "position_embd.weight", draw(512, width), "F32")
    norms = ["token_embd_norm", *(f"blk.{at}.{name}_output_norm" for at in range(2) for name in ("attn", "layer"))]
    for norm in norms:
        _put(writer, f"{norm}.weight", np.ones(width), "F32")
        _put(writer, f"{norm}.bias", np.zeros(width), "F32")
    sizes = {"attn_q": (1, 1), "attn_k": (1, 1), "attn_v": (1, 1), "attn_output": (1, 1), "ffn_up": (2, 1),
             "ffn_down": (1, 2)}  # fmt: skip
    for at in range(2):
        for name, (rows, columns) in sizes.items():
            _put(writer, f"blk.{at}.{name}.weight", draw(rows * width, columns * width), "F16")
            _put(writer, f"blk.{at}.{name}.bias", np.zeros(rows * width), "F32")
    return _written(writer, path)


# -- how such a file is written


def _byte_characters() -> dict[int, str]:
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + at) for at, byte in enumerate(moved)}


_CHARACTERS = _byte_characters()


def _vocabulary(words: list[str]) -> tuple[list[str], list[int], list[str]]:
    """All bytes, then what is needed so that each word is one token, then the marks."""
    tokens, merges = [_CHARACTERS[byte] for byte in range(256)], []
    for word in words:
        spelled = word.translate(_CHARACTERS)
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in tokens:
                tokens.append(spelled[:end])
                merges.append(f"{spelled[: end - 1]} {spelled[end - 1]}")
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(_SPECIAL)
    return [*tokens, *_SPECIAL], kinds, merges


def _tokens(writer: Any, tokens: list[str], kinds: list[int], merges: list[str]) -> dict[str, int]:
    at = {token: number for number, token in enumerate(tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(at["<|begin_of_text|>"])
    writer.add_eos_token_id(at["<|eot_id|>"])
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    return at


def _head(
    writer: Any, *, width: int, layers: int, vocabulary: int, context: int, kind: int, heads: tuple[int, int] = (4, 2)
) -> None:
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_block_count(layers)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(width // heads[0])
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(int(kind))
    _put(writer, "output_norm.weight", np.ones(width), "F32")


def _layer(
    writer: Any, at: int, width: int, draw: Any, kind: str, *, heads: tuple[int, int] = (4, 2), silent: bool = False
) -> None:
    """One layer. A silent one adds nothing to what passes through it."""
    few = width // heads[0] * heads[1]
    shapes = {"attn_q": (width, width), "attn_k": (few, width), "attn_v": (few, width), "attn_output": (width, width),
              "ffn_gate": (2 * width, width), "ffn_up": (2 * width, width), "ffn_down": (width, 2 * width)}  # fmt: skip
    for name in ("attn_norm", "ffn_norm"):
        _put(writer, f"blk.{at}.{name}.weight", np.ones(width), "F32")
    for name, shape in shapes.items():
        mute = silent and name in ("attn_output", "ffn_down")
        _put(writer, f"blk.{at}.{name}.weight", np.zeros(shape) if mute else draw(*shape), kind)


def _put(writer: Any, name: str, values: Any, kind: str) -> None:
    full = np.ascontiguousarray(values, dtype=np.float32)
    if kind == "F32" or full.ndim == 1:
        writer.add_tensor(name, full)
        return
    quantised = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(full, quantised), raw_dtype=quantised)


def _written(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
