#!/usr/bin/env python3
"""Writes tests/data/quants/dequantized.bin: blocks of every quantised type and the values that the `gguf` package gives them.

Needs: pip install gguf numpy. Run: tools/make_quant_fixture.py tests/data/quants/dequantized.bin
The file is a sequence of records, little endian:
  u32 type (number in GGUF), u32 elements, u32 bytes, the bytes, then one f32 for each element.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# type -> byte offsets of its f16 fields, which get sane values; all else is random bits.
TYPES = {"F16": None, "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}
ELEMENTS = 1024


def main() -> None:
    rng = np.random.default_rng(20)
    with open(sys.argv[1], "wb") as out:
        for name, halves in TYPES.items():
            kind = GGMLQuantizationType[name]
            block_elements, block_bytes = GGML_QUANT_SIZES[kind]
            blocks = ELEMENTS // block_elements
            data = rng.integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
            if halves is None:
                data = rng.standard_normal(ELEMENTS).astype(np.float16).view(np.uint8).reshape(blocks, block_bytes)
            for offset in halves or []:
                scale = rng.standard_normal(blocks) * 10.0 ** rng.integers(-7, 3, blocks)
                data[:, offset : offset + 2] = scale.astype(np.float16).view(np.uint8).reshape(blocks, 2)
            values = dequantize(data.reshape(-1), kind).astype(np.float32).reshape(-1)
            assert values.size == ELEMENTS
            raw = data.tobytes()
            out.write(struct.pack("<III", int(kind), ELEMENTS, len(raw)) + raw + values.tobytes())


if __name__ == "__main__":
    main()
