"""A vision-language model in this process: any image-text-to-text checkpoint of transformers.

Its answers are held to the schema token by token (xgrammar), and read as strictly as anybody's afterwards.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

from dataforge.backends.answers import PROMPT_VERSION
from dataforge.backends.asking import Asking, Question, repair_request
from dataforge.backends.checkpoints import Needs, Package, Weights, check, identity
from dataforge.backends.devices import in_batches, place, quietly
from dataforge.model_config import Vlm as Settings
from manifests.errors import Fault, UsageError

__all__ = ["Vlm"]

INSTALL = '`pip install "dataforge[vlm]"`'


class Vlm(Asking):
    """Attribute words and captions, and prompts where they are to be written."""

    name = "vlm"
    version = f"1.{PROMPT_VERSION}"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 1,
        photographs: int = 4,
        max_side: int = 448,
        temperature: float = 0.0,
        seed: int = 0,
        answer: dict[str, Any] | None = None,
    ) -> None:
        """Loads the model. Raises `UsageError` E505 where weights are missing, E508 for a model of another kind."""
        path = check(_weights(model, revision), self.name)
        self.model = identity(model, revision)
        super().__init__(photographs=photographs, max_side=max_side, answer=answer)
        self._batch_size = batch_size
        self._temperature, self._seed = temperature, seed
        self._place = place(device, precision, half="bfloat16")
        import xgrammar
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            with quietly():
                self._processor: Any = AutoProcessor.from_pretrained(path, local_files_only=True)
                network = AutoModelForImageTextToText.from_pretrained(
                    path, local_files_only=True, use_safetensors=True, dtype=self._place.dtype
                )
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise UsageError(f"vlm: {path.name} is no image-text-to-text model.", code="E508") from error
        self._network: Any = network.eval().to(self._place.device)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        vocabulary = network.config.get_text_config().vocab_size
        facts = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        # its own cache refuses repetitions of 128 and more (0.2.8), so compiled grammars are kept here
        self._compiler = xgrammar.GrammarCompiler(facts, cache_enabled=False)
        self._grammars: dict[str, Any] = {}

    @staticmethod
    def needs(settings: Settings) -> Needs:
        """What has to be there."""
        packages = tuple(Package(name, INSTALL) for name in ("torch", "torchvision", "transformers", "xgrammar"))
        return Needs(
            packages, (_weights(settings.model, settings.revision),), settings.device, _memory_gb(settings.model)
        )

    def _ask(self, questions: Sequence[Question]) -> list[str | Fault]:
        return in_batches(questions, self._batch_size, self._answer, what=self.name)

    def _answer(self, questions: Sequence[Question]) -> list[str]:
        import torch
        import xgrammar

        inputs = self._processor.apply_chat_template(
            [_conversation(question) for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_tensors": "pt", "padding": True},
        ).to(self._place.device)
        inputs = {
            name: value.to(self._place.dtype) if torch.is_floating_point(value) else value
            for name, value in inputs.items()
        }
        grammars = [self._grammar(json.dumps(question.schema)) for question in questions]
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._temperature > 0:
            sampling = {"do_sample": True, "temperature": self._temperature, "top_p": 1.0, "top_k": 0}
        devices = [self._place.device] if self._place.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices), quietly():
            torch.manual_seed(self._seed)
            tokens = self._network.generate(
                **inputs,
                **sampling,
                max_new_tokens=max(question.longest for question in questions),
                logits_processor=[xgrammar.contrib.hf.LogitsProcessor(grammars)],
            )
        written = tokens[:, inputs["input_ids"].shape[1] :]
        return list(self._processor.tokenizer.batch_decode(written, skip_special_tokens=True))

    def _grammar(self, schema: str) -> Any:
        if schema not in self._grammars:
            self._grammars[schema] = self._compiler.compile_json_schema(schema, any_whitespace=False)
        return self._grammars[schema]


def _conversation(asked: Question) -> list[dict[str, Any]]:
    from PIL import Image

    shown = [{"type": "image", "image": Image.open(io.BytesIO(data), formats=("JPEG",))} for data in asked.images]
    turns: list[dict[str, Any]] = [{"role": "user", "content": [*shown, {"type": "text", "text": asked.text}]}]
    if asked.wrong:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": asked.said}]})
        turns.append({"role": "user", "content": [{"type": "text", "text": repair_request(asked)}]})
    return turns


def _memory_gb(model: str) -> float:
    """About what a model takes in half precision with photographs, by the billions of parameters in its name."""
    billions = re.search(r"(\d+(?:\.\d+)?)b\b", model.lower())
    return 3 + 2 * float(billions[1]) if billions else 8


def _weights(model: str, revision: str | None) -> Weights:
    return Weights(model, revision, "transformers")
