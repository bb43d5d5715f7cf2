"""The model card of an adapter: what it is, what it was made from, how to load it. Markdown with Hub front matter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from manifests.records import Subject
from manifests.refs import parse_reference
from pipelines.records import AdapterRecord

__all__ = ["model_card"]

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(record: AdapterRecord, subjects: Sequence[Subject]) -> str:
    """The text of README.md. A base or corpus is linked where it has a name on the Hub, and named where it has none."""
    front = yaml.safe_dump(_front_matter(record, subjects), sort_keys=False, allow_unicode=True)
    shown = {key: record.settings[key] for key in sorted(record.settings)}
    settings = yaml.safe_dump(shown, allow_unicode=True)
    what = f"`{record.identifier} {record.class_noun}`" if record.class_noun else f"{len(subjects)} subjects"
    credits = [
        f"- {_text(s.name)}: {_text(s.licence) or 'licence not stated'}{f', {_text(s.credit)}' if s.credit else ''}"
        for s in subjects
    ]
    losses = ", ".join(f"{loss:.4f}" for loss in record.losses)
    return f"""---
{front}---

# {record.subject}

{_kind(record)} that paints {what}, trained by `{record.recipe}` for {record.steps} steps on
{len(record.sample_ids)} pictures. ID `{record.id}`; `adapter.json` holds every sample ID, setting and digest.

## Use

```sh
dataforge inpaint {_place(record)} --scene SCENE.jpg --box X0,Y0,X1,Y1 --prompt "a photo of {_word(record)}" -o out
```

{_loading(record)}

## Made from

- base `{_text(record.base.model)}`{f" at `{record.base.revision}`" if record.base.revision else ""},
  {record.base.family}, {record.base.channels} channels, sha256 `{record.base.digest[:16]}`
- corpus `{_text(record.corpus)}`, digest `{record.corpus_digest[:16]}`
{chr(10).join(credits)}

## Training

Mean loss over equal stretches, first to last: {losses or "none"}.

```yaml
{settings}```
"""


def _front_matter(record: AdapterRecord, subjects: Sequence[Subject]) -> dict[str, Any]:
    licences = {subject.licence for subject in subjects}
    front: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "image-to-image"}
    if len(licences) == 1 and (licence := licences.pop()):
        front |= {"license": "other", "license_name": licence.lower().replace(" ", "-")}
    base = record.base.model.removeprefix("hf://").partition("+")[0]
    if _on_hub(base):
        front |= {"base_model": base, "base_model_relation": "adapter" if record.kind == "lora" else "finetune"}
    dataset = parse_reference(record.corpus).place
    if dataset.startswith("hf://datasets/"):
        front["datasets"] = [dataset.removeprefix("hf://datasets/")]
    if record.kind == "lora":
        front["instance_prompt"] = f"a photo of {_word(record)}"
    front["tags"] = ["inpainting", "text-to-image", "diffusers", "dataforge", record.recipe] + (
        ["lora"] if record.kind == "lora" else []
    )
    return front


def _on_hub(place: str) -> bool:
    from pathlib import Path

    return HUB_NAME.fullmatch(place) is not None and not Path(place).exists()


def _place(record: AdapterRecord) -> str:
    return record.subject


def _word(record: AdapterRecord) -> str:
    return " ".join(part for part in (record.identifier, record.class_noun) if part)


def _kind(record: AdapterRecord) -> str:
    return "A LoRA" if record.kind == "lora" else "A fine-tuned UNet"


def _loading(record: AdapterRecord) -> str:
    if record.kind == "lora":
        loaded = "`pytorch_lora_weights.safetensors` loads with diffusers' `load_lora_weights`, its alpha included."
        if record.settings.get("train_token"):
            loaded += (
                f"\n`learned_embeds.safetensors` holds the word `{record.identifier}` for `load_textual_inversion`."
            )
        return loaded
    return "`unet/` loads with `UNet2DConditionModel.from_pretrained`."


def _text(value: str) -> str:
    """Text of others on a page of ours: one line, and no markup."""
    from manifests.errors import printable

    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(" ".join(value.split())))
