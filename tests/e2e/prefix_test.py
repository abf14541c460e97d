#!/usr/bin/env python3
"""What was read before is not read again, and nothing but the time shows it: same texts, true counts, over stages and after a loss."""
import concurrent.futures
import os
import signal
import time
import unittest

import pool
from pool import Pool

STORY = "The lighthouse keeper wrote down the weather, the ships and the visitors of every day. " * 60
QUESTIONS = ["Who wrote?", "What did the keeper write down?", "Name three things.", "Is this a long text?"]


def ask(p, messages, **fields):
    """The answer's text, and how many tokens of the prompt were and were not known."""
    body = {"model": p.ready["model"], "messages": messages, "temperature": 0, "max_tokens": 24, "ignore_eos": True} | fields
    answer = p.call("POST", "/v1/chat/completions", body)
    usage = answer["usage"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def metric(p, name):
    return sum(float(line.split()[-1]) for line in p.get("/metrics").splitlines() if line.startswith(name + "{"))


class Prefix(unittest.TestCase):
    def conversation(self, **options):
        """Three turns; the same turns asked of a pool that never saw the ones before."""
        with Pool(**options) as p:
            messages, turns = [{"role": "system", "content": STORY}], []
            for question in QUESTIONS[:3]:
                messages = messages + [{"role": "user", "content": question}]
                text, length, cached = ask(p, messages)
                turns.append((messages, text, length, cached))
                messages = messages + [{"role": "assistant", "content": text}]
            self.assertEqual(turns[0][3], 0)
            for messages, text, length, cached in turns[1:]:
                print(f"{options['workers']} workers: {cached} of {length} tokens were known", flush=True)
                self.assertLess(length - cached, 130)
                self.assertLess(cached, length)
            self.assertEqual(metric(p, "vllm:prefix_cache_hits_total"), sum(t[3] for t in turns))
            self.assertEqual(metric(p, "vllm:prefix_cache_queries_total"), sum(t[2] for t in turns))
        with Pool(**options) as p:
            messages, text, _, _ = turns[2]
            self.assertEqual(ask(p, messages)[::2], (text, 0))
        return turns

    def test_a_conversation(self):
        one = self.conversation(workers=1, context=2048)
        three = self.conversation(workers=3, context=2048)
        self.assertEqual(one, three)

    def test_a_conversation_over_windows(self):
        model = pool.MODEL.with_name("gemma3-270m.gguf")
        if not model.exists():
            self.fail(f"no real model {model}; ./dev test fetches it")
        self.assertEqual(self.conversation(workers=1, context=2048, model=model),
                         self.conversation(workers=2, context=2048, model=model))

    def test_many_with_one_system_prompt(self):
        with Pool(2, context=2048) as p:
            system = {"role": "system", "content": STORY}
            questions = [f"{q} ({i})" for i in range(4) for q in QUESTIONS]
            with concurrent.futures.ThreadPoolExecutor(len(questions)) as threads:
                together = list(threads.map(lambda q: ask(p, [system, {"role": "user", "content": q}]), questions))
            known = sum(cached for _, _, cached in together)
            self.assertGreater(known, 0.8 * sum(length for _, length, _ in together))
            # One worker is lost: what was read is gone with it, and is not believed to be there.
            os.kill(p.pid("w1"), signal.SIGKILL)
            time.sleep(0.1)
            p.wait_ready()
            text, length, cached = ask(p, [system, {"role": "user", "content": questions[0]}])
            self.assertEqual((text, cached), (together[0][0], 0))
            self.assertEqual(ask(p, [system, {"role": "user", "content": questions[5]}])[0], together[5][0])


if __name__ == "__main__":
    pool.main()
