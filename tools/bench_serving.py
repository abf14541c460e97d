#!/usr/bin/env python3
"""What users of one pool see of each other and of lost machines: a second turn against the first, a short question behind
long prompts, many with one system prompt, and the pause of a stream whose worker is killed. Prints markdown tables.

bench_serving.py --bin FOLDER --models FOLDER [--rounds 5] [--llama FOLDER] [--only kills]

--llama: a folder with llama.cpp's ggml-rpc-server and llama-server, whose ring is killed in the same way.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time


def spread(values, digits=0):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.{digits}f} / {middle:.{digits}f} / {high:.{digits}f}"


def ids(seed, n):
    """Token ids of plain text that no other seed has in common, as the prompt of a completion."""
    return [100 + (seed * 7919 + i * i * 31 + i * seed) % 250 for i in range(n)]


def complete(pool, prompt, max_tokens=1):
    """The answer and the seconds that it took."""
    start = time.monotonic()
    answer = pool.complete(prompt, max_tokens=max_tokens, ignore_eos=True)
    return answer, time.monotonic() - start


def turns(Pool, model, workers, rounds):
    """Milliseconds to one token behind 2,000 tokens, then behind the same and 30 more."""
    first, second, ratios = [], [], []
    with Pool(workers, model=model, context=4096) as pool:
        complete(pool, ids(999, 600))
        for i in range(rounds):
            _, a = complete(pool, ids(i, 2000))
            answer, b = complete(pool, ids(i, 2000) + ids(i + 500, 30))
            known = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            if known != 1984:
                sys.exit(f"error: {known} of 2,030 tokens were known; 1,984 should be")
            first.append(a * 1000)
            second.append(b * 1000)
            ratios.append(100 * b / a)
    print(f"| {model.stem} | {workers} | {spread(first)} | {spread(second)} | {spread(ratios, 1)} |", flush=True)


def crowd(Pool, model, workers):
    """32 users at once, each with a 1,500-token beginning of all and 20 tokens of their own."""
    with Pool(workers, model=model, context=2048) as pool:
        complete(pool, ids(999, 600))
        with concurrent.futures.ThreadPoolExecutor(32) as threads:
            times = []
            for alike in (False, True):
                start = time.monotonic()
                list(threads.map(lambda i: complete(pool, ids(1 if alike else i + 10, 1500) + ids(i + 3000, 20)), range(32)))
                times.append(time.monotonic() - start)
    print(f"| {model.stem} | {workers} | {times[0]:.1f} | {times[1]:.1f} | {100 * times[1] / times[0]:.1f} |", flush=True)


def fair(Pool, model, workers):
    """One stream, four prompts of 3,850 tokens, and a question of one token behind them."""
    with Pool(workers, model=model, context=4096, users=6) as pool:
        complete(pool, ids(999, 600))
        gaps, stop = [], threading.Event()

        def read():
            last = None
            for _ in pool.stream("Tell me a story.", max_tokens=3500, ignore_eos=True):
                now = time.monotonic()
                if last:
                    gaps.append((now, (now - last) * 1000))
                last = now
                if stop.is_set():
                    return
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(2)
        alone = [gap for _, gap in gaps][5:]
        start = time.monotonic()
        prompts = [threading.Thread(target=complete, args=(pool, ids(i, 3850))) for i in range(4)]
        for prompt in prompts:
            prompt.start()
        time.sleep(0.15)
        _, short = complete(pool, [100])
        for prompt in prompts:
            prompt.join()
        took = time.monotonic() - start
        stop.set()
        reader.join()
        beside = [gap for at, gap in gaps if start < at < start + took]
        print(f"| {model.stem} | {workers} | {short:.2f} | {took:.1f} | {statistics.median(alone):.0f} "
              f"| {statistics.median(beside):.0f} / {max(beside):.0f} |", flush=True)


def kills(Pool, model, rounds):
    """The longest pause of a stream whose worker is killed in the middle, behind 500 tokens of context."""
    pauses, texts = [], set()
    with Pool(3, model=model, context=1024) as pool:
        for i in range(rounds + 1):
            pool.wait_ready()
            time.sleep(1)
            text, last, pause, tokens = [], None, 0.0, 0
            body = {"model": pool.ready["model"], "prompt": ids(1, 500), "temperature": 0.8, "seed": 7, "max_tokens": 200,
                    "ignore_eos": True, "stream": True}
            victim = pool.pid(f"w{i % 3 + 1}")
            connection, response = pool.request("POST", "/v1/completions", body)
            with connection:
                for line in response:
                    if not line.startswith(b"data: {"):
                        continue
                    event, now = json.loads(line[6:]), time.monotonic()
                    if "error" in event:
                        sys.exit(f"error: the answer ended with {event}")
                    text += [choice["text"] for choice in event["choices"]]
                    tokens += 1
                    pause, last = max(pause, now - (last or now)), now
                    if i > 0 and tokens == 50:
                        os.kill(victim, signal.SIGKILL)
            texts.add("".join(text))
            if i > 0:
                pauses.append(pause * 1000)
    print(f"| {model.stem} | {len(pauses)} | {spread(pauses)} | {'yes' if len(texts) == 1 else 'NO'} |", flush=True)


class Ring:
    """llama.cpp's three rpc-servers and the llama-server that is their head; whatever has ended is started again at once."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        with contextlib.ExitStack() as stack:
            ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(4)]
        self.port, self.peers = ports[0], ports[1:]
        self.head, self.servers = None, [None] * 3
        self.revive()

    def start(self, *command):
        return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def revive(self):
        for i, port in enumerate(self.peers):
            if self.servers[i] is None or self.servers[i].poll() is not None:
                self.servers[i] = self.start(self.folder / "ggml-rpc-server", "-H", "127.0.0.1", "-p", port, "-t", 1)
        if self.head is None or self.head.poll() is not None:
            time.sleep(0.3)  # the servers listen
            self.head = self.start(self.folder / "llama-server", "-m", self.model, "--rpc", ",".join(f"127.0.0.1:{p}" for p in self.peers),
                                   "-ngl", 99, "-c", 1024, "-np", 1, "-t", 1, "--host", "127.0.0.1", "--port", self.port, "--no-webui")

    def answer(self, max_tokens, prompt=500, on_token=lambda n: None, timeout=60):
        """How many tokens came, and how the stream ended."""
        tokens = 0
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            connection.request("POST", "/v1/completions", json.dumps({
                "prompt": ids(1, prompt), "temperature": 0.8, "seed": 7, "max_tokens": max_tokens, "ignore_eos": True, "stream": True,
                "cache_prompt": False}), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                return tokens, str(response.status)
            for line in response:
                if line.strip() == b"data: [DONE]":
                    return tokens, "whole"
                if line.startswith(b"error") or b'"error"' in line:
                    return tokens, "an error"
                if line.startswith(b"data: {"):
                    tokens += 1
                    on_token(tokens)
            return tokens, "an end without a word"
        except TimeoutError:
            return tokens, f"silence for {timeout} s"
        except (OSError, http.client.HTTPException):
            return tokens, "an end without a word"

    def wait(self, seconds=120):
        """Until it answers."""
        start = time.monotonic()
        while self.answer(1, prompt=8, timeout=10)[1] != "whole":
            if time.monotonic() - start > seconds:
                sys.exit("error: llama.cpp's ring does not answer")
            self.revive()
            time.sleep(0.1)

    def close(self):
        for process in [self.head, *self.servers]:
            process.kill()
            process.wait()


def ring_kills(folder, model, rounds):
    """The same kill of one of three of llama.cpp's RPC servers."""
    ends, came, away, killed, heads = {}, [], [], [], 0
    ring = Ring(folder, model)
    try:
        ring.wait()
        for i in range(rounds):
            def kill(tokens, victim=i % 3):
                if tokens == 50:
                    killed.append(time.monotonic())
                    ring.servers[victim].kill()
                    ring.servers[victim].wait()
            tokens, end = ring.answer(200, on_token=kill)
            ends[end] = ends.get(end, 0) + 1
            came.append(tokens)
            with contextlib.suppress(subprocess.TimeoutExpired):
                ring.head.wait(timeout=5)
            heads += ring.head.poll() is not None
            if ring.head.poll() is None:  # it would go on without the server
                ring.head.kill()
                ring.head.wait()
            ring.revive()
            ring.wait()
            away.append(time.monotonic() - killed[-1])
    finally:
        ring.close()
    how = ", ".join(f"{end}: {n}" for end, n in ends.items())
    print(f"| {model.stem} | {rounds} | {how} | {spread(came)} | {heads} | {spread(away, 1)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama", type=pathlib.Path)
    parser.add_argument("--only", choices=["kills"])
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[1]
    os.environ["LANYARD_BIN"] = str(args.bin.resolve())
    os.environ["LANYARD_SOURCE"] = str(root)
    sys.path.insert(0, str(root / "tests" / "e2e"))
    from pool import Pool  # the tests' own way to run a pool

    def killed():
        print("\nkill -9 of one of three workers, 500 tokens of context; the stream's pause in ms, min / median / max\n")
        print("| model | kills | pause | same text |\n|-|-|-|-|", flush=True)
        kills(Pool, smollm, 3 * args.rounds)
        if not args.llama:
            return
        print("\nkill -9 of one of three of llama.cpp's rpc-servers at the 50th of 200 tokens; what has ended is started again at once\n")
        print("| model | kills | how the answer ended | tokens that came | heads that ended too | s until the next answer |\n|-|-|-|-|-|-|", flush=True)
        ring_kills(args.llama, smollm, 3 * args.rounds)

    smollm, gemma = args.models / "smollm2.gguf", args.models / "gemma3-270m.gguf"
    if args.only:
        return killed()
    print(f"\na second turn, {args.rounds} conversations; ms to a token, min / median / max\n")
    print("| model | workers | first: 2,000 tokens | second: 30 more | second in % of the first |\n|-|-|-|-|-|", flush=True)
    for model, workers in ((smollm, 1), (smollm, 3), (gemma, 1)):
        turns(Pool, model, workers, args.rounds)
    print("\n32 users at once, each 1,520 tokens; s for all\n")
    print("| model | workers | nothing in common | 1,500 tokens in common | in % |\n|-|-|-|-|-|", flush=True)
    for workers in (1, 3):
        crowd(Pool, smollm, workers)
    print("\none stream, four prompts of 3,850 tokens, one question of one token\n")
    print("| model | workers | the question, s | the prompts, s | gap of the stream alone, ms | beside, ms: median / max |\n"
          "|-|-|-|-|-|-|", flush=True)
    for workers in (1, 3):
        fair(Pool, smollm, workers)
    return killed()


if __name__ == "__main__":
    main()
