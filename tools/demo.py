#!/usr/bin/env python3
"""The demo: a pool of one coordinator and three workers on this machine, and a chat with it.

demo.py --bin FOLDER --model FILE [--workers 3]
On a terminal the chat goes on until /bye; otherwise one question is answered and everything is stopped again.
"""
import argparse
import json
import pathlib
import signal
import subprocess
import sys

QUESTION = "Why is the sky blue? Answer in two sentences."


def shell_words(command):
    return " ".join(w if w.isalnum() or w.startswith("-") or "/" in w else f"'{w}'" for w in map(str, command))


def stop(pool):
    """Ends the pool as Ctrl-C would and waits until its processes are gone."""
    if pool.poll() is None:
        pool.send_signal(signal.SIGTERM)
        try:
            pool.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pool.kill()
            pool.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--workers", type=int, default=3)
    args = parser.parse_args()
    lanyard = args.bin / "lanyard"
    state = pathlib.Path(__file__).resolve().parents[1] / "build" / "demo-state"
    command = [lanyard, "up", "--model", args.model, "--workers", args.workers, "--port", 0, "--state", state, "--json"]
    print(f"\n$ {shell_words(command)}", flush=True)
    # Its own process group: Ctrl-C in the chat is the chat's.
    pool = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        line = pool.stdout.readline()
        if not line:
            return pool.wait() or 1
        ready = json.loads(line)
        url = ready["url"]
        print(f"\n{url} serves {ready['model']}, {ready['context']} tokens of context. Who holds what:\n")
        for w in ready["workers"]:
            layers = "layers {}-{}".format(*w["layers"]) if w["layers"] else "no layers"
            duties = ["embeds"] * w["embeds"] + ["samples"] * w["samples"]
            print(f"  {w['name']} (pid {w['pid']}): {layers}{' (' + ', '.join(duties) + ')' if duties else ''}, "
                  f"{w['bytes'] / 2**20:.1f} MiB of the file")
        status = [lanyard, "node", "status", "--admin", ready["admin"]]
        print(f"\n$ {shell_words(status)}", flush=True)
        subprocess.run(status, check=True)
        chat = [lanyard, "run", "--admin", ready["admin"]]
        if not sys.stdin.isatty() or not sys.stdout.isatty():
            chat += ["--temperature", "0", "--max-tokens", "120", "--prompt", QUESTION]
        print(f"\n$ {shell_words(chat)}", flush=True)
        code = subprocess.call(list(map(str, chat)), stdin=None if sys.stdin.isatty() else subprocess.DEVNULL)
        print("\nStopping the pool.", flush=True)
        return code
    except KeyboardInterrupt:
        return 130
    finally:
        stop(pool)


if __name__ == "__main__":
    sys.exit(main())
