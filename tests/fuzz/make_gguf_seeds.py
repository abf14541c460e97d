#!/usr/bin/env python3
"""Writes the seeds of fuzz_gguf (tests/fuzz/corpus/gguf): whole models of a few kilobytes, so that mutations get past the
header into the checks of shapes and tensors. Needs nothing but Python; run it again when a family is added."""

import pathlib
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q",
        F64: "<d"}
BLOCK = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34)}  # tensor type: elements and bytes of a block


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARR:
        element, items = v
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, x) for x in items)
    return struct.pack(PACK[kind], v)


def gguf(keys, tensors, version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for key, kind, v in keys:
        out += text(key) + struct.pack("<I", kind) + value(kind, v)
    data = b""
    for name, kind, dims in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, len(data))
        elements, size = BLOCK[kind]
        count = size
        for d in dims:
            count *= d
        data += bytes(count // elements)
        data += bytes(-len(data) % alignment)
    if tensors:
        out += bytes(-len(out) % alignment)
    return out + data


def vocabulary(n):
    return [("tokenizer.ggml.model", STR, "llama"), ("tokenizer.ggml.tokens", ARR, (STR, [f"t{i}" for i in range(n)])),
            ("tokenizer.ggml.scores", ARR, (F32, [0.0] * n)), ("tokenizer.ggml.token_type", ARR, (I32, [1] * n)),
            ("tokenizer.ggml.eos_token_id", U32, 1)]


def model(arch, kind, d, extra_keys=(), extra_tensors=(), layers=1):
    keys = [("general.architecture", STR, arch), (f"{arch}.block_count", U32, layers), (f"{arch}.context_length", U32, 64),
            (f"{arch}.embedding_length", U32, d), (f"{arch}.feed_forward_length", U32, d),
            (f"{arch}.attention.head_count", U32, 2), (f"{arch}.attention.head_count_kv", U32, 1),
            (f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5), *extra_keys]
    tensors = [("token_embd.weight", kind, [d, 4]), ("output_norm.weight", 0, [d]), *extra_tensors]
    for i in range(layers):
        b = f"blk.{i}."
        tensors += [(b + "attn_norm.weight", 0, [d]), (b + "attn_q.weight", kind, [d, d]),
                    (b + "attn_k.weight", kind, [d, d // 2]), (b + "attn_v.weight", kind, [d, d // 2]),
                    (b + "attn_output.weight", kind, [d, d]), (b + "ffn_norm.weight", 0, [d]),
                    (b + "ffn_gate.weight", kind, [d, d]), (b + "ffn_up.weight", kind, [d, d]),
                    (b + "ffn_down.weight", kind, [d, d])]
        if arch == "gemma3":
            tensors += [(b + "attn_q_norm.weight", 0, [d // 2]), (b + "attn_k_norm.weight", 0, [d // 2]),
                        (b + "post_attention_norm.weight", 0, [d]), (b + "post_ffw_norm.weight", 0, [d])]
    return keys + vocabulary(4), tensors


def main():
    folder = pathlib.Path(__file__).parent / "corpus" / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    scalars = [(f"k{kind}", kind, 1) for kind in PACK] + [("s", STR, "text"), ("n", I32, -1)]
    arrays = [(f"a{kind}", ARR, (kind, [0, 1])) for kind in PACK] + [("as", ARR, (STR, ["", "two"]))]
    seeds = {
        "empty": gguf([], []),
        "scalars": gguf(scalars, []),
        "arrays": gguf(arrays, []),
        "vocabulary": gguf([("general.architecture", STR, "llama"), *vocabulary(4)], []),
        "llama": gguf(*model("llama", 0, 8, [("llama.rope.freq_base", F32, 5e5)], [("output.weight", 0, [8, 4])])),
        "llama-tied-rope": gguf(*model("llama", 0, 8, [("llama.rope.dimension_count", U32, 4)],
                                       [("rope_freqs.weight", 0, [2])])),
        "llama-q8": gguf(*model("llama", 8, 32, [("llama.rope.scaling.type", STR, "linear"),
                                                 ("llama.rope.scaling.factor", F32, 2.0)])),
        "llama-v2-aligned": gguf(*model("llama", 1, 8, [("general.alignment", U32, 64)]), version=2, alignment=64),
        "gemma3": gguf(*model("gemma3", 0, 8, [("gemma3.attention.sliding_window", U32, 16),
                                               ("gemma3.attention.key_length", U32, 4),
                                               ("gemma3.attention.value_length", U32, 4)], layers=2)),
        "gemma3-pattern": gguf(*model("gemma3", 2, 32, [("gemma3.attention.sliding_window", U32, 8),
                                                        ("gemma3.attention.sliding_window_pattern", ARR, (BOOL, [1]))])),
    }
    for name, data in seeds.items():
        (folder / f"{name}.gguf").write_bytes(data)


if __name__ == "__main__":
    main()
