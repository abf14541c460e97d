"""The openai client from PyPI against Lanyard's HTTP front.

With --server it starts that binary (a fake pool, so every answer is known). With LANYARD_URL set it talks to a running pool
instead and skips what only the fake pool can do. LANYARD_VENV names the Python environment that holds `openai`
(default: build/venv of the source tree); without it the test exits 77, which ctest shows as skipped.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request

ARGS = argparse.Namespace(server="", source=str(pathlib.Path(__file__).resolve().parents[2]))


def find_openai():
    """Makes `import openai` work, from this interpreter or by restarting in the venv."""
    try:
        import openai  # noqa: F401
        return
    except ImportError:
        pass
    venv = pathlib.Path(os.environ.get("LANYARD_VENV", pathlib.Path(ARGS.source) / "build" / "venv"))
    python = venv / "bin" / "python"
    if python.exists() and os.environ.get("LANYARD_IN_VENV") != "1":
        os.environ["LANYARD_IN_VENV"] = "1"
        os.execv(str(python), [str(python)] + sys.argv)
    print(f"SKIPPED: no openai package in this Python and none in {venv} (set LANYARD_VENV, or run ./dev test)")
    sys.exit(77)


def url():
    return os.environ["LANYARD_URL"].rstrip("/")


def fake():
    return bool(ARGS.server)


def get(path):
    with urllib.request.urlopen(url() + path, timeout=10) as response:
        return response.read().decode()


def eventually(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def running():
    return len(json.loads(get("/admin/v1/status"))["requests"])


class OpenAiClient(unittest.TestCase):
    def setUp(self):
        import openai
        self.openai = openai
        self.client = openai.OpenAI(base_url=url() + "/v1", api_key="none", max_retries=0, timeout=60)
        self.model = self.client.models.list().data[0].id

    def tearDown(self):
        self.client.close()

    def chat(self, text="Name three colours.", **kwargs):
        kwargs.setdefault("max_tokens", 8)
        return self.client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": text}], **kwargs)

    def text(self, prompt="The sea is", **kwargs):
        kwargs.setdefault("max_tokens", 8)
        return self.client.completions.create(model=self.model, prompt=prompt, **kwargs)

    # --- models ---
    def test_models(self):
        listed = self.client.models.list().data
        self.assertEqual([m.id for m in listed], [self.model])
        self.assertEqual(listed[0].object, "model")
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)
        with self.assertRaises(self.openai.NotFoundError) as caught:
            self.client.models.retrieve("no/such:model")
        self.assertEqual(caught.exception.code, "model_not_found")

    # --- chat ---
    def test_chat(self):
        answer = self.chat(temperature=0)
        self.assertEqual(answer.object, "chat.completion")
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertEqual(answer.model, self.model)
        self.assertTrue(answer.system_fingerprint)
        choice = answer.choices[0]
        self.assertEqual((choice.index, choice.message.role), (0, "assistant"))
        self.assertTrue(choice.message.content)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertLessEqual(usage.completion_tokens, 8)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_chat_stream_equals_whole(self):
        whole = self.chat(temperature=0)
        chunks = list(self.chat(temperature=0, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(len({(c.id, c.created, c.model, c.object) for c in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertTrue(all(c.choices[0].delta.role is None for c in chunks[1:-1]))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        self.assertEqual(reasons[-1], whole.choices[0].finish_reason)
        self.assertTrue(all(r is None for r in reasons[:-1]))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))

    def test_chat_stream_without_usage(self):
        chunks = list(self.chat(stream=True))
        self.assertTrue(all(c.choices and c.usage is None for c in chunks))

    def test_roles_and_parts(self):
        answer = self.client.chat.completions.create(
            model=self.model, max_completion_tokens=4, temperature=0,
            messages=[{"role": "developer", "content": "Be brief."},
                      {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
                      {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"}])
        self.assertLessEqual(answer.usage.completion_tokens, 4)

    def test_seed(self):
        answers = [self.chat(seed=s, temperature=1, max_tokens=12).choices[0].message.content for s in (1, 1, 2, 3, 4)]
        self.assertEqual(answers[0], answers[1])
        self.assertGreater(len(set(answers)), 1)

    def test_ignore_eos_and_extensions(self):
        answer = self.chat(temperature=0.5, seed=1, max_tokens=40,
                           extra_body={"ignore_eos": True, "top_k": 40, "min_p": 0.05, "never_heard_of": 1})
        self.assertEqual(answer.usage.completion_tokens, 40)
        self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_stop(self):
        full = self.text(temperature=0, max_tokens=10, extra_body={"ignore_eos": True}).choices[0].text
        words = [w for w in full.split() if len(w) > 1]
        if not words:
            self.skipTest(f"no word in {full!r}")
        word = words[len(words) // 2]
        cut = self.text(temperature=0, max_tokens=10, stop=[word, "never seen"], extra_body={"ignore_eos": True})
        self.assertEqual(cut.choices[0].finish_reason, "stop")
        self.assertEqual(cut.choices[0].text, full[:full.index(word)])
        streamed = "".join(c.choices[0].text for c in self.text(
            temperature=0, max_tokens=10, stop=word, stream=True, extra_body={"ignore_eos": True}))
        self.assertEqual(streamed, cut.choices[0].text)

    def test_harmless_fields(self):
        self.chat(user="u", metadata={"a": "b"}, store=False, service_tier="auto", n=1, presence_penalty=0,
                  response_format={"type": "text"})

    def test_neutral_values(self):
        plain = self.chat(temperature=0).choices[0].message.content
        neutral = self.chat(
            temperature=1, top_p=0, tool_choice="none", stop=[""], logprobs=False, top_logprobs=0, frequency_penalty=0,
            reasoning_effort="medium", extra_body={
                "tools": [], "grammar": "", "json_schema": "", "guided_regex": "", "chat_template": "", "suffix": "",
                "chat_template_kwargs": {"enable_thinking": False}, "options": {}, "think": False, "min_tokens": 0, "reasoning": {"effort": "low"},
                "stream_options": {"include_usage": True}})
        self.assertEqual(neutral.choices[0].message.content, plain)
        self.assertEqual(self.chat(max_tokens=-1, stop="never seen").choices[0].finish_reason, "stop")
        self.assertEqual(self.chat(max_tokens=None, extra_body={"n_predict": 3}).usage.completion_tokens, 3)

    def test_base_urls(self):
        for base in ("", "/", "/v1/", "//v1", "//v1//"):
            with self.openai.OpenAI(base_url=url() + base, api_key="none", max_retries=0, timeout=60) as client:
                self.assertEqual(client.models.list().data[0].id, self.model, msg=base)
                self.assertEqual(client.models.retrieve(self.model).id, self.model, msg=base)
                self.assertTrue(client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": "hi"}], max_tokens=2).choices, msg=base)

    def test_pages_of_other_origins(self):
        for path, kind in (("/v1/chat/completions", "text/plain"), ("/admin/v1/keys", "application/json")):
            request = urllib.request.Request(url() + path, data=b'{"name":"x","messages":[]}', headers={
                "Origin": "http://localhost:3000", "Content-Type": kind})
            with self.assertRaises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            self.assertEqual(caught.exception.code, 403)

    def test_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=2, temperature=0, max_tokens=3)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        self.assertEqual(len(content[0].top_logprobs), 2)
        self.assertLessEqual(content[0].logprob, 0)

    # --- completions ---
    def test_text(self):
        answer = self.text(temperature=0)
        self.assertEqual(answer.object, "text_completion")
        streamed = list(self.text(temperature=0, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in streamed if c.choices), answer.choices[0].text)
        self.assertEqual(streamed[-1].usage.total_tokens, answer.usage.total_tokens)
        self.assertEqual(self.text(["The sea is"], temperature=0).choices[0].text, answer.choices[0].text)

    def test_token_ids(self):
        self.assertEqual(self.text([5, 6, 7], temperature=0, max_tokens=2).usage.completion_tokens, 2)

    # --- errors ---
    def test_refused(self):
        for kwargs in ({"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}]},
                       {"response_format": {"type": "json_object"}}, {"logit_bias": {"5": 1}},
                       {"presence_penalty": 1}, {"temperature": 3}, {"max_tokens": -2}, {"max_tokens": 0},
                       {"top_p": -1}, {"extra_body": {"temperature": "hot"}}, {"extra_body": {"options": {"num_ctx": 9}}},
                       {"extra_body": {"think": True}}, {"extra_body": {"continue_final_message": True}},
                       {"prediction": {"type": "content", "content": "x"}},
                       {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
                       {"extra_body": {"regex": "a+"}}, {"extra_body": {"stopping_strings": ["x"]}}):
            with self.assertRaises(self.openai.BadRequestError, msg=str(kwargs)) as caught:
                self.chat(**kwargs)
            self.assertEqual(caught.exception.type, "invalid_request_error")
            self.assertTrue(caught.exception.param, msg=str(kwargs))

    def test_answers_as_messages(self):
        answer = self.chat(max_tokens=3).choices[0].message
        for message in (answer, answer.model_dump(), {"role": "assistant", "content": None, "refusal": "No."}):
            self.assertTrue(self.client.chat.completions.create(
                model=self.model, max_tokens=2, messages=[
                    {"role": "user", "content": "x"}, message, {"role": "user", "content": "y"}]).choices, msg=str(message))
        for lost in ({"function_call": {"name": "f", "arguments": "{}"}}, {"audio": {"id": "x"}}, {"images": ["aGk="]}):
            with self.assertRaises(self.openai.BadRequestError, msg=str(lost)) as caught:
                self.client.chat.completions.create(model=self.model, messages=[
                    {"role": "user", "content": "x"}, {"role": "assistant", "content": None} | lost])
            self.assertEqual(caught.exception.param, "messages[1]." + next(iter(lost)))

    def test_unknown_model(self):
        with self.assertRaises(self.openai.NotFoundError) as caught:
            self.client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "x"}])
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_too_long(self):
        text = "TOO LONG" if fake() else "word " * 100000
        with self.assertRaises(self.openai.BadRequestError) as caught:
            self.chat(text)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        self.assertIn("maximum context length is", str(caught.exception))

    def test_ten_thousand_messages(self):
        with self.assertRaises(self.openai.BadRequestError) as caught:
            self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "x"}] * 10000)
        self.assertIn("10000", str(caught.exception))

    def test_malformed_bodies(self):
        for body in (b"", b"{", b'{"messages": NaN}', b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}',
                     b"[" * 100000, b'{"messages":[{"role":"user","content":"\xff"}]}'):
            request = urllib.request.Request(url() + "/v1/chat/completions", data=body)
            with self.assertRaises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            self.assertEqual(caught.exception.code, 400)
            error = json.loads(caught.exception.read())["error"]
            self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.chat()  # the pool goes on

    def test_unknown_path(self):
        with self.assertRaises(self.openai.NotFoundError):
            self.client.embeddings.create(model=self.model, input="x")

    def test_busy_and_lost(self):
        if not fake():
            self.skipTest("needs the fake pool")
        with self.assertRaises(self.openai.RateLimitError):
            self.chat("QUEUE FULL")
        with self.assertRaises(self.openai.InternalServerError) as caught:
            self.chat("DIE")
        self.assertEqual(caught.exception.status_code, 503)
        with self.assertRaises(self.openai.APIError) as caught:
            list(self.chat("DIE", stream=True))
        self.assertIn("worker w2 was lost", str(caught.exception))

    # --- cancel ---
    def test_closing_a_stream_cancels(self):
        stream = self.chat("STALL" if fake() else "Write a long story.", stream=True, max_tokens=3000,
                           extra_body={"ignore_eos": True})
        next(iter(stream))
        self.assertTrue(eventually(lambda: running() >= 1))
        stream.close()
        self.assertTrue(eventually(lambda: running() == 0))

    def test_leaving_before_the_answer_cancels(self):
        client = self.openai.OpenAI(base_url=url() + "/v1", api_key="none", max_retries=0, timeout=0.5)
        with self.assertRaises(self.openai.APITimeoutError):
            client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "STALL, a long story please"}],
                max_tokens=3000, extra_body={"ignore_eos": True})
        self.assertTrue(eventually(lambda: running() == 0))

    # --- many at once ---
    def test_eight_at_once_equal_one_alone(self):
        alone = [self.chat(f"Question {i}", temperature=0).choices[0].message.content for i in range(8)]
        together = [None] * 8

        def ask(i):
            together[i] = self.chat(f"Question {i}", temperature=0).choices[0].message.content

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(together, alone)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="")
    parser.add_argument("--source", default=ARGS.source)
    _, rest = parser.parse_known_args(namespace=ARGS)
    find_openai()
    process = None
    if ARGS.server:
        process = subprocess.Popen([ARGS.server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        os.environ["LANYARD_URL"] = process.stdout.readline().strip()
    elif not os.environ.get("LANYARD_URL"):
        print("SKIPPED: give --server BINARY, or LANYARD_URL of a running pool")
        sys.exit(77)
    try:
        result = unittest.main(argv=[sys.argv[0]] + rest, verbosity=2, exit=False).result
    finally:
        if process:
            process.stdin.close()
            process.wait(timeout=10)
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
