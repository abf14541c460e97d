#!/usr/bin/env python3
"""What the pool costs on top of the engine: decode rate over HTTP from a pool of one worker against `lanyard bench` with
as many threads, interleaved; and what a message between two workers costs (net_bench). Prints markdown tables.

bench_pool.py --bin FOLDER --models FOLDER [--threads 2] [--rounds 5]
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

GENERATE = 128


def engine_rate(binary, model, threads):
    out = subprocess.run([binary / "lanyard", "bench", "--model", model, "--threads", str(threads), "--prompt", "16",
                          "--generate", str(GENERATE), "--users", "1", "--repeat", "3", "--json"],
                         capture_output=True, text=True, check=True).stdout
    return next(r["median"] for r in json.loads(out) if r["test"] == f"tg{GENERATE}")


def pool_rate(binary, pool):
    """Decode rate of three streamed answers one after another, from `lanyard load`: a client written in Python would take
    a good part of a core that the worker computes on. The time to the first token is left out, as it is in the engine's."""
    requests = 3
    out = subprocess.run([binary / "lanyard", "load", "--url", pool.ready["url"], "--users", "1", "--requests", str(requests),
                          "--prompt-tokens", "16", "--generate", str(GENERATE), "--json"],
                         capture_output=True, text=True, check=True).stdout
    load = json.loads(out)
    if load["errors"] or load["completion_tokens"] != requests * GENERATE:
        sys.exit(f"error: the pool answered with {out.strip()}")
    decode_s = load["seconds"] - requests * load["ttft_ms"]["p50"] / 1000
    return (load["completion_tokens"] - requests) / decode_s


def spread(values):
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[1]
    os.environ["LANYARD_BIN"] = str(args.bin.resolve())
    os.environ["LANYARD_SOURCE"] = str(root)
    sys.path.insert(0, str(root / "tests" / "e2e"))
    from pool import Pool  # the tests' own way to run a pool

    print(f"decode of {GENERATE} tokens, one user, {args.threads} threads, {args.rounds} rounds interleaved; "
          "tokens/s, min / median / max\n")
    print("| model | engine | pool of one worker over HTTP | ratio |\n|-|-|-|-|", flush=True)
    for name in ("smollm2", "gemma3-270m"):
        model = args.models / f"{name}.gguf"
        engine, over_http = [], []
        for _ in range(args.rounds):  # a new pool each: where its threads and pages come to lie is luck
            before = engine_rate(args.bin, model, args.threads)
            with Pool(1, model=model, threads_per_worker=args.threads, context=1024) as pool:
                over_http.append(pool_rate(args.bin, pool))
            engine.append((before + engine_rate(args.bin, model, args.threads)) / 2)
        # Of neighbours in time: what else the machine does is much the same for both.
        ratios = [p / e for p, e in zip(over_http, engine)]
        ratio = f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
        print(f"| {name} | {spread(engine)} | {spread(over_http)} | {ratio} |", flush=True)
    print("\nmessage between two workers (loopback, one way = half a ping-pong)\n", flush=True)
    result = subprocess.run([args.bin / "net_bench", "--json"], capture_output=True, text=True, check=True).stdout
    print("| bytes | TLS p50 us | TLS p99 us | plaintext p50 us | plaintext p99 us |\n|-|-|-|-|-|")
    for row in json.loads(result):
        print(f"| {row['bytes']} | {row['p50_us']:.1f} | {row['p99_us']:.1f} | {row['plaintext_p50_us']:.1f} "
              f"| {row['plaintext_p99_us']:.1f} |")


if __name__ == "__main__":
    main()
