"""Write: regular-data prompts by a language model, each checked for the words it has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataforge.backends.answers import check_prompt
from dataforge.protocols import AskingDescriber
from dataforge.stages.blobs import spoke
from dataforge.store import Made
from manifests.errors import Fault

__all__ = ["WritePrompts"]


class WritePrompts:
    """One input is a prompt to write."""

    name = "write"

    def __init__(self, writer: AskingDescriber) -> None:
        self._writer = writer

    def run(self, inputs: Sequence[dict[str, Any]]) -> list[Made | Fault]:
        """Input: class_noun, words. Value: prompt. E223 where noun or word is missing, asked twice."""
        wishes = [(value["class_noun"], tuple(value["words"])) for value in inputs]
        answers = self._writer.write_prompts(wishes)
        results: list[Made | Fault] = []
        for answer, (noun, words) in zip(answers, wishes, strict=True):
            checked = answer if isinstance(answer, Fault) else check_prompt(answer, noun, words)
            results.append(
                checked if isinstance(checked, Fault) else Made({"prompt": checked, "by": spoke(self._writer)})
            )
        return results
