#!/usr/bin/env python3
"""Lanyard's engine against llama.cpp (PyPI xllamacpp), interleaved: round by round one, then the other, so that a noisy
machine is noisy for both. Prints a markdown table: tokens/s as min / median / max over the rounds, and the ratio of medians.

bench_peers.py --lanyard BIN --models FOLDER [--threads 2] [--rounds 5] [--json FILE]
"""
import argparse
import json
import pathlib
import platform
import random
import statistics
import subprocess
import sys

PROMPTS = (128, 512)
GENERATE = 64
REPEATS = 3  # in one process; its median is the round's figure
TESTS = [f"pp{n}" for n in PROMPTS] + [f"tg{GENERATE}"]


def peer_process(model, threads):
    """Runs in a process of its own: prints {"pp128": tokens/s, ...} by llama.cpp's own timings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 1024
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_prompt = False
    params.warmup = True
    server = xllamacpp.Server(params)
    rng = random.Random(7)

    def timings(n_prompt, n_predict):
        ids = [rng.randrange(1000, 20000) for _ in range(n_prompt)]
        reply = server.handle_completions({"prompt": ids, "max_tokens": n_predict, "temperature": 0,
                                           "cache_prompt": False, "ignore_eos": True})
        reply = json.loads(reply) if isinstance(reply, str) else reply
        return reply["timings"]

    timings(64, 8)
    out = {}
    for n in PROMPTS:
        out[f"pp{n}"] = statistics.median(timings(n, 1)["prompt_per_second"] for _ in range(REPEATS))
    out[f"tg{GENERATE}"] = statistics.median(timings(4, GENERATE)["predicted_per_second"] for _ in range(REPEATS))
    # A line of its own: llama.cpp may have written to stdout.
    print("\nRESULT " + json.dumps(out), flush=True)


def run_peer(model, threads):
    out = subprocess.run([sys.executable, __file__, "--peer-process", str(model), "--threads", str(threads)],
                         capture_output=True, text=True, check=False)
    for line in out.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    sys.exit(f"error: xllamacpp gave no figures (exit code {out.returncode}):\n{out.stderr[-2000:]}")


def run_lanyard(binary, model, threads):
    command = [binary, "bench", "--model", str(model), "--threads", str(threads),
               "--prompt", ",".join(map(str, PROMPTS)), "--generate", str(GENERATE), "--users", "1",
               "--repeat", str(REPEATS), "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode != 0:
        sys.exit(f"error: {' '.join(command)}:\n{out.stderr[-2000:]}")
    return {r["test"]: r["median"] for r in json.loads(out.stdout)}


def spread(values):
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}"


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanyard")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--peer-process", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer_process:
        peer_process(args.peer_process, args.threads)
        return
    rows = []
    for name in ("smollm2", "gemma3-270m"):
        model = args.models / f"{name}.gguf"
        ours, theirs = {t: [] for t in TESTS}, {t: [] for t in TESTS}
        for r in range(args.rounds):
            print(f"{name}: round {r + 1} of {args.rounds}", file=sys.stderr, flush=True)
            for figures, result in ((ours, run_lanyard(args.lanyard, model, args.threads)),
                                    (theirs, run_peer(model, args.threads))):
                for t in TESTS:
                    figures[t].append(result[t])
        for t in TESTS:
            rows.append({"model": name, "test": t, "lanyard": ours[t], "llama.cpp": theirs[t],
                         "ratio": statistics.median(ours[t]) / statistics.median(theirs[t])})
    print(f"{cpu_name()}, {args.threads} threads, {args.rounds} rounds interleaved; tokens/s, min / median / max\n")
    print("| model | test | lanyard | llama.cpp (xllamacpp) | ratio |\n|-|-|-|-|-|")
    for row in rows:
        print(f"| {row['model']} | {row['test']} | {spread(row['lanyard'])} | {spread(row['llama.cpp'])} "
              f"| {row['ratio']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
