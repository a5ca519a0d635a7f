"""Makes tests/golden/blocks.json: random blocks of every storage type of GGUF that is read, with the f32 bits that the
`gguf` package makes of them, and values with the bytes that it makes of those in the types that it quantises to.

usage: python tests/golden/make/blocks.py        (numpy, gguf)
"""
import importlib.metadata, json, os
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

SEED, BLOCKS = 4711, 3
rng, later = np.random.default_rng(SEED), np.random.default_rng(SEED + 1)
# Where a block's f16 scales stand: random bytes would make some of them infinite or NaN.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "F16": [0], "BF16": [], "F32": []}
# Types that came later draw from numbers of their own, so that the blocks above stay what they were.
LATER = {"Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "MXFP4": []}
types = []
for name, at in [*SCALES.items(), *LATER.items()]:
    draw = rng if name in SCALES else later
    size = GGML_QUANT_SIZES[T[name]][1]
    raw = draw.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for i in at:
        raw[:, i:i + 2] = draw.normal(0, 0.02, BLOCKS).astype(np.float16).view(np.uint8).reshape(BLOCKS, 2)
    if name == "MXFP4":
        raw[:, 0] = draw.integers(110, 135, BLOCKS, dtype=np.uint8)
    if name == "F32":
        raw = draw.normal(size=BLOCKS).astype(np.float32).view(np.uint8).reshape(BLOCKS, 4)
    if name == "BF16":
        raw = (draw.normal(size=BLOCKS).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(BLOCKS, 2)
    values = dequantize(raw, T[name]).astype(np.float32)
    types.append({"type": name, "bytes": raw.tobytes().hex(), "f32": values.tobytes().hex()})
# Halves (ties of the rounding), a block of zeros, one of a single spike, one of tiny values.
values = np.concatenate([rng.normal(0, 0.1, 64), np.arange(32) - 15.5, np.zeros(32), [127.0] + [0.5, 1.5, -0.5, -2.5] * 7 + [3.0] * 3,
                         rng.normal(0, 1e-7, 32)]).astype(np.float32).reshape(1, -1)
out = {"origin": {"script": "tests/golden/make/blocks.py", "seed": SEED, "numpy": np.__version__, "gguf": importlib.metadata.version("gguf")},
       "types": types, "f32": values.tobytes().hex(),
       "encoded": {name: quantize(values, T[name]).tobytes().hex() for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")}}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "blocks.json"), "w") as f:
    json.dump(out, f, indent=0)
    f.write("\n")
