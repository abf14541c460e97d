#!/usr/bin/env python3
"""llama.cpp's figures that the tests hold the engine and the tokenizers to, made anew with PyPI's xllamacpp.

    python3 -m venv V && V/bin/pip install "$(grep -o 'xllamacpp==[0-9.]*' dev)"
    ./dev build release tiny_models
    V/bin/python tools/make_golden.py --tiny build/release/bin/tiny_models --models build/models

writes into tests/data:
  golden/tiny-NAME.json   the models of model/testing/tiny_models.cc, which the program tiny_models writes as files
  golden/NAME.json        the real models
  golden/SHA256SUMS       of all these models: a test says when a golden file belongs to another one
  tokenizer/llama_cpp.json  token ids of the texts that stand in it already; to add a text, add {"text": ...}
--tiny or --models alone renews only its part. For each prompt: its tokens, for every position the log-sum-exp of the logits (lse) and
the largest logits (top), mean_nll in nats a predicted token, and the greedy continuation with its end token.
On the CPU, f32 KV, no flash attention. Logits of quantised models differ a little from processor to processor (llama.cpp rounds
activations to 8 bits); those of f32 models agree to about 1e-5.
"""
import argparse
import ctypes
import hashlib
import heapq
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
TOP = 8
REAL = {"smollm2": "smollm2.gguf", "gemma3": "gemma3-270m.gguf"}
TINY_PROMPTS = ["the theme in the thin heather", "A pipeline of layers: one, two, three! 12345", "x",
                "then the other anther, in there; \tother\n\n{\"k\": [0.5, -1e9]} \u00e9\u4e16\U0001f44b and an end"]
REAL_PROMPTS = [
    "The capital of France is",
    'def quicksort(xs):\n    """Sort a list of numbers."""\n    if len(xs) <= 1:\n        return xs\n',
    "Dear colleagues,\n\nthe quarterly report for 2026 shows that revenue grew by 12.5 % while costs",
    "Das Bundesdatenschutzgesetz regelt, wie personenbezogene Daten verarbeitet werden",
    "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\u3002\u4eca\u65e5\u306f\u5929\u6c17\u304c",
    "\u041f\u0440\u0438\u0432\u0435\u0442! \u041a\u0430\u043a \u0434\u0435\u043b\u0430? \U0001f44b\U0001f3fd It's 7:45 p.m. \u2014 "
    "\"quotes\", tabs\tand   spaces",
    "An office has more computers than people who use them at any one moment. Most stand idle through the night, and by day they "
    "wait for somebody to type. Each of them holds some gigabytes of memory and a processor that could multiply matrices. One of "
    "them alone is too small for a large language model, but ten of them together are not: the layers of the model are divided "
    "among them, each computes its own, and passes a few kilobytes to the next. The answer comes back a word at a time. What "
    "makes this possible is that the numbers which cross the network are small, while those that stay where they are, the "
    "weights, are large. If one of the computers is switched off, the others take its layers over, and whoever asked the "
    "question notices a pause, and nothing else. Nobody outside of the building ever reads the question or the",
]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


class Params(ctypes.Structure):
    """llama_model_params and llama_context_params, as words. Larger than both: the caller gives the room, the callee uses what it has."""
    _fields_ = [("words", ctypes.c_int32 * 128)]


# Words of llama_context_params. Their defaults tell whether the fields are still where they were.
N_CTX, N_BATCH, N_UBATCH, N_SEQ_MAX, THREADS, THREADS_BATCH, FLASH_ATTENTION, TYPE_K, TYPE_V = 0, 1, 2, 3, 7, 8, 13, 26, 27
DEFAULTS = {N_CTX: 512, N_BATCH: 2048, N_UBATCH: 512, N_SEQ_MAX: 1, THREADS: 4, THREADS_BATCH: 4, FLASH_ATTENTION: -1, TYPE_K: 1, TYPE_V: 1}
N_GPU_LAYERS = 4  # a word of llama_model_params, -1 by default


class Llama:
    """llama.cpp's C interface, which xllamacpp's extension module exports; the module's own classes give no logits of a prompt."""

    def __init__(self):
        try:
            import xllamacpp
        except ImportError:
            sys.exit("error: this Python has no xllamacpp; the head of tools/make_golden.py says how to install it")
        self.c = ctypes.CDLL(str(next(pathlib.Path(xllamacpp.__file__).parent.glob("*.so"))))
        p, i, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
        for name, result, arguments in (
                ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
                ("llama_model_load_from_file", p, [text, Params]), ("llama_init_from_model", p, [p, Params]),
                ("llama_model_get_vocab", p, [p]), ("llama_vocab_n_tokens", i, [p]), ("llama_vocab_is_eog", ctypes.c_bool, [p, i]),
                ("llama_tokenize", i, [p, text, i, ctypes.POINTER(i), i, ctypes.c_bool, ctypes.c_bool]),
                ("llama_token_to_piece", i, [p, i, text, i, i, ctypes.c_bool]), ("llama_decode", i, [p, Batch]),
                ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [p, i]), ("llama_free", None, [p]),
                ("llama_model_free", None, [p])):
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        words = self.c.llama_context_default_params().words
        found = {at: words[at] for at in DEFAULTS}
        if found != DEFAULTS or self.c.llama_model_default_params().words[N_GPU_LAYERS] != -1:
            sys.exit(f"error: this xllamacpp lays its parameters out otherwise ({found}, expected {DEFAULTS}); install the version that "
                     "./dev names, or mend the words in tools/make_golden.py")


class Model:
    def __init__(self, llama, path):
        self.c = llama.c
        params = self.c.llama_model_default_params()
        params.words[N_GPU_LAYERS] = 0
        self.model = self.c.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"error: llama.cpp cannot load {path}; see above")
        self.vocab = self.c.llama_model_get_vocab(self.model)
        self.n_vocab = self.c.llama_vocab_n_tokens(self.vocab)
        self.context = None

    def close(self):
        self.reset()
        self.c.llama_model_free(self.model)

    def reset(self):
        if self.context:
            self.c.llama_free(self.context)
        self.context = None

    def tokens(self, text, add_special, parse_special):
        data = text.encode()
        out = (ctypes.c_int32 * (len(data) + 8))()
        n = self.c.llama_tokenize(self.vocab, data, len(data), out, len(out), add_special, parse_special)
        assert n >= 0, f"{n} tokens for {text!r}"
        return list(out[:n])

    def piece(self, token):
        out = ctypes.create_string_buffer(512)
        n = self.c.llama_token_to_piece(self.vocab, token, out, len(out), 0, False)
        return out.raw[:max(0, n)]

    def logits(self, tokens, first):
        """Of every token; the first stands at position `first`."""
        if self.context is None:
            params = self.c.llama_context_default_params()
            threads = os.cpu_count()
            for at, value in ((N_CTX, 1024), (N_BATCH, 1024), (N_UBATCH, 1024), (THREADS, threads), (THREADS_BATCH, threads),
                              (FLASH_ATTENTION, 0), (TYPE_K, 0), (TYPE_V, 0)):
                params.words[at] = value
            self.context = self.c.llama_init_from_model(self.model, params)
            assert self.context, "llama_init_from_model failed"
        n = len(tokens)
        sequence = (ctypes.c_int32 * 1)(0)
        batch = Batch(n, (ctypes.c_int32 * n)(*tokens), None, (ctypes.c_int32 * n)(*range(first, first + n)),
                      (ctypes.c_int32 * n)(*[1] * n),
                      (ctypes.POINTER(ctypes.c_int32) * n)(*[ctypes.cast(sequence, ctypes.POINTER(ctypes.c_int32))] * n),
                      (ctypes.c_int8 * n)(*[1] * n))
        code = self.c.llama_decode(self.context, batch)
        assert code == 0, f"llama_decode: {code}"
        return [self.c.llama_get_logits_ith(self.context, i)[:self.n_vocab] for i in range(n)]

    def figures(self, prompt, generate):
        self.reset()
        tokens = self.tokens(prompt, True, True)
        positions, nll, rows = [], 0.0, self.logits(tokens, 0)
        for i, row in enumerate(rows):
            most = max(row)
            lse = most + math.log(math.fsum(math.exp(x - most) for x in row))
            top = heapq.nsmallest(TOP, range(self.n_vocab), key=lambda t: (-row[t], t))
            positions.append({"lse": round(lse, 5), "top": [[t, round(row[t], 5)] for t in top]})
            if i + 1 < len(tokens):
                nll += lse - row[tokens[i + 1]]
        greedy, row = [], rows[-1]
        while len(greedy) < generate:
            greedy.append(max(range(self.n_vocab), key=lambda t: (row[t], -t)))
            if self.c.llama_vocab_is_eog(self.vocab, greedy[-1]):
                break
            row = self.logits(greedy[-1:], len(tokens) + len(greedy) - 1)[0]
        return {"prompt": prompt, "tokens": tokens, "positions": positions,
                "mean_nll": round(nll / max(1, len(tokens) - 1), 7), "greedy": greedy,
                "greedy_text": b"".join(map(self.piece, greedy)).decode(errors="replace")}


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_figures(model, name, prompts, generate):
    entries = [model.figures(prompt, generate) for prompt in prompts]
    # A line a prompt, so that a change shows which one it is of.
    path = DATA / "golden" / f"{name}.json"
    path.write_text("[" + ",\n".join(map(compact, entries)) + "]\n")
    print(f"{path}: {sum(len(e['tokens']) for e in entries)} positions")


def write_sums(sums):
    path = DATA / "golden" / "SHA256SUMS"
    have = dict(reversed(line.split()) for line in path.read_text().splitlines()) if path.exists() else {}
    have.update(sums)
    path.write_text("".join(f"{have[name]}  {name}\n" for name in sorted(have)))


def make_tiny(llama, program):
    sums = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        for path in sorted(pathlib.Path(folder).glob("*.gguf")):
            model = Model(llama, path)
            write_figures(model, f"tiny-{path.stem}", TINY_PROMPTS, 24)
            model.close()
            sums[f"tiny-{path.stem}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_sums(sums)


def make_real(llama, folder, only_tokens):
    path = DATA / "tokenizer" / "llama_cpp.json"
    cases = json.loads(path.read_text())["cases"]
    sums = {}
    for name, file in REAL.items():
        model = Model(llama, folder / file)
        for case in cases:
            plain, special = (model.tokens(case["text"], False, parse) for parse in (False, True))
            case[name] = [plain, None if special == plain else special]
        if not only_tokens:
            write_figures(model, name, REAL_PROMPTS, 48)
        model.close()
        sums[name] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    made_by = ("tools/make_golden.py: llama_tokenize with add_special false; ids with parse_special false, then true (null: the same)")
    path.write_text('{"made_by":' + compact(made_by) + ',\n"cases":[\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")
    print(f"{path}: {len(cases)} texts")
    write_sums(sums)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=pathlib.Path, help="the program tiny_models")
    parser.add_argument("--models", type=pathlib.Path, help="the folder of " + " and ".join(REAL.values()))
    parser.add_argument("--only-tokens", action="store_true", help="of the real models: seconds instead of minutes")
    args = parser.parse_args()
    if not args.tiny and not args.models:
        parser.error("give --tiny, --models or both")
    llama = Llama()
    if args.tiny:
        make_tiny(llama, args.tiny.resolve())
    if args.models:
        make_real(llama, args.models, args.only_tokens)


if __name__ == "__main__":
    main()
