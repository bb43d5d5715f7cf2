"""A vision-language model behind a server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama.

The server is asked to hold its answers to the schema and never believed: what comes back is read as strictly as from
anyone. Failures of the server or of the way to it are not a subject's fault: they are tried again, and end the build
when nothing else comes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Sequence
from typing import Any

from dataforge.backends.answers import PROMPT_VERSION
from dataforge.backends.asking import Asking, Question, repair_request
from dataforge.backends.checkpoints import Needs, Package
from dataforge.model_config import VlmServer as Settings
from manifests.errors import EnvironmentFault, Fault, UsageError

__all__ = ["VlmServer"]

INSTALL = '`pip install "dataforge[vlm-server]"`'
# this many calls in a row without one answer: the server is down, not the subjects strange
_MAX_FAILURES_IN_A_ROW = 20
# a question that fails while others are answered is put again so many times
_ROUNDS = 5
_REFUSALS = {401: "the key is refused", 403: "access is refused", 404: "there is no such model or path"}


class _Unavailable(Exception):
    """No answer to this question after all attempts, for reasons of the server's."""


class VlmServer(Asking):
    """Attribute words and captions, and prompts where they are to be written; `batch_size` questions at a time."""

    name = "vlm-server"
    version = f"1.{PROMPT_VERSION}"

    def __init__(
        self,
        url: str,
        model: str,
        allow_http: bool = False,
        api_key_env: str = "OPENAI_API_KEY",
        photographs: int = 4,
        max_side: int = 768,
        temperature: float = 0.0,
        seed: int = 0,
        answer: dict[str, Any] | None = None,
        batch_size: int = 16,
        attempts: int = 4,
        timeout_s: float = 60.0,
        deadline_s: float = 120.0,
        max_tokens: int = 4096,
    ) -> None:
        """Connects to nothing yet. Raises `UsageError` E501 for plain http that is not allowed."""
        if url.startswith("http://") and not allow_http:
            raise UsageError("photographs and key would travel in the clear; set allow_http: true where that is meant.")
        import openai

        self.model = model
        super().__init__(photographs=photographs, max_side=max_side, answer=answer)
        self._at_once, self._attempts, self._deadline_s = batch_size, attempts, deadline_s
        self._options = {"temperature": temperature, "seed": seed}
        self._max_tokens = max_tokens
        # a key is never sent on to where a server points
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=os.environ.get(api_key_env) or "none",
            timeout=timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout_s),
        )
        self._runner = asyncio.Runner()
        self._failures_in_a_row = 0
        self._answered = 0

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        return Needs((Package("openai", INSTALL),), device=settings.url)

    def _ask(self, questions: Sequence[Question]) -> list[str | Fault]:
        return self._runner.run(self._ask_all(questions))

    async def _ask_all(self, questions: Sequence[Question]) -> list[str | Fault]:
        replies: dict[int, str | Fault] = {}
        reasons: dict[int, str] = {}
        gate = asyncio.Semaphore(self._at_once)

        async def one(number: int) -> None:
            async with gate:
                try:
                    replies[number] = await asyncio.wait_for(self._reply(questions[number]), self._deadline_s)
                except (_Unavailable, TimeoutError) as error:
                    reasons[number] = str(error) or f"no answer within {self._deadline_s:g} s"
                    self._failures_in_a_row += 1
                    if self._failures_in_a_row >= _MAX_FAILURES_IN_A_ROW:
                        raise self._outage(reasons[number]) from error
                else:
                    self._failures_in_a_row = 0
                    self._answered += 1

        for _ in range(_ROUNDS):
            waiting = [number for number in range(len(questions)) if number not in replies]
            if not waiting:
                break
            before = self._answered
            try:
                async with asyncio.TaskGroup() as group:
                    for number in waiting:
                        group.create_task(one(number))
            except* (EnvironmentFault, UsageError) as errors:
                raise errors.exceptions[0] from None
            if self._answered == before and reasons:
                # a round without one answer: wait a little before the next
                await asyncio.sleep(0.5)
        for number in range(len(questions)):
            if number not in replies and not self._answered:
                raise self._outage(reasons[number])
            replies.setdefault(number, Fault("E223", f"the server failed on this: {reasons.get(number, '')}"))
        return [replies[number] for number in range(len(questions))]

    def _outage(self, reason: str) -> EnvironmentFault:
        return EnvironmentFault(f"{self.name}: {self._failures_in_a_row} calls in a row failed: {reason}.", code="E513")

    async def _reply(self, asked: Question) -> str | Fault:
        """The text of one reply. Raises `_Unavailable` where the attempts are used up."""
        import openai

        left, reason = self._attempts, ""
        while left > 0:
            try:
                # the client retries what is momentary, and waits as long as the server says
                asking = self._client.with_options(max_retries=left - 1).chat.completions.with_raw_response
                raw = await asking.create(
                    model=self.model,
                    messages=_messages(asked),
                    max_tokens=min(self._max_tokens, asked.longest + 64),
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "answer", "strict": True, "schema": asked.schema},
                    },
                    **self._options,
                )
            except openai.APIStatusError as error:
                status = error.status_code
                if status in _REFUSALS:
                    raise UsageError(f"{self.name}: {_REFUSALS[status]} ({status}).", code="E507") from error
                if 400 <= status < 500 and status not in (408, 409, 425, 429):
                    return Fault("E223", f"the server refuses the question ({status}): {_first_line(error)}")
                raise _Unavailable(f"status {status}: {_first_line(error)}") from error
            except openai.APIError as error:
                raise _Unavailable(f"{type(error).__name__}: {_first_line(error)}") from error
            left -= 1 + raw.retries_taken
            reply = _content(raw.http_response.text)
            if reply is not None:
                return reply
            reason = "a reply that is no chat completion"
            await asyncio.sleep(0.1)
        raise _Unavailable(reason)


def _messages(asked: Question) -> Any:
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"}}
        for data in asked.images
    ]
    turns: list[dict[str, Any]] = [{"role": "user", "content": [*pictures, {"type": "text", "text": asked.text}]}]
    if asked.wrong:
        turns.append({"role": "assistant", "content": asked.said})
        turns.append({"role": "user", "content": repair_request(asked)})
    return turns


def _content(body: str) -> str | None:
    """The answer in a chat completion; None for a body that is none, as a proxy's page of HTML.

    An answer that was cut off is made unreadable here: cut at the right place it could be valid.
    """
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"]["content"]
        finished = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    if not isinstance(content, str):
        return None
    return f"(cut off by its length) {content}" if finished == "length" else content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
