"""Prints llama.cpp's perplexity of tests/golden/real/page.txt, read at once, for GGUF files: the figures in docs/NUMERICS.md.
usage: python scripts/figures/llama_cpp.py FILE.gguf…        (cyllama 0.2.18, numpy)"""
import math, os, sys
import numpy as np
from cyllama.llama import llama_cpp as cy

page = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden/real/page.txt")).read()
cy.disable_logging()


class Model(cy.LlamaModel):
    """With a name that cyllama itself asks for and does not have."""
    n_vocab = property(lambda self: self.get_vocab().n_vocab)


print("ggml", cy.ggml_version(), cy.ggml_commit())
for path in sys.argv[1:]:
    model = Model(path, verbose=False)
    ids = model.get_vocab().tokenize(page, add_special=True, parse_special=False)
    params = cy.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = 1024
    context = cy.LlamaContext(model, params, verbose=False)
    batch = cy.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for i, id in enumerate(ids):
        batch.add(id, i, [0], True)
    context.decode(batch)
    nll = 0.0
    for i, id in enumerate(ids[1:]):
        row = np.asarray(context.get_logits_ith(i), np.float64)
        nll -= row[id] - row.max() - math.log(np.exp(row - row.max()).sum())
    nll /= len(ids) - 1
    print(f"{os.path.basename(path)}: {len(ids) - 1} tokens, nll {nll:.5f}, perplexity {math.exp(nll):.3f}", flush=True)
