"""What every recipe can be told; a recipe adds its own fields and changes defaults. Unknown keys are errors.

Names are those of diffusers' training scripts where there is one. `None` means off, or "as the base has it".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from manifests.ids import digest_of

__all__ = ["FREE_TO_CHANGE", "Settings"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

# settings a run may be taken up again with: they change how a result is reached or watched, never the result
FREE_TO_CHANGE = frozenset(
    {"max_train_steps", "checkpointing_steps", "checkpoints_kept", "dataloader_workers", "trackers"}
    | {"gradient_checkpointing", "subjects_at_once", "validation_prompts", "validation_steps", "validation_inference"}
)


class Settings(BaseModel):
    """Settings all recipes share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # what is trained; targets are linear layers and convolutions by the end of their names
    method: Literal["lora", "dora", "full"] = "lora"
    rank: Count = 4
    alpha: Annotated[float, Field(gt=0)] | None = None
    lora_targets: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    # the identifier as a word of its own, `<sks>`, whose embedding row is trained along and starts at the identifier's
    train_token: bool = False
    token_learning_rate: Annotated[float, Field(gt=0)] | None = None
    subjects_at_once: Count = 1

    # what it is trained on
    identifier: str = "sks"
    resolution: Annotated[int, Field(ge=16)] | None = None
    variants: Count = 10
    regular_variants: Count = 3
    view_seed: int = 0
    own_pixels_prompt: Literal["identifier", "class"] = "identifier"
    # share of the draws of a photograph whose prompt names the subject's own colour
    name_source_words: Share = 0.0

    # how
    max_train_steps: Count = 1000
    train_batch_size: Count = 1
    gradient_accumulation_steps: Count = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.999
    adam_weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    snr_gamma: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Share | None = None
    seed: int = 0

    # on what
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    dataloader_workers: Annotated[int, Field(ge=0)] = 0

    # what is kept and shown
    checkpointing_steps: Count = 250
    checkpoints_kept: Annotated[int, Field(ge=2)] = 2
    trackers: tuple[str, ...] = ()
    validation_steps: Count | None = None
    validation_prompts: tuple[str, ...] = ()
    validation_inference: Count = 20

    @property
    def word(self) -> str:
        """What stands for the subject in a prompt."""
        return f"<{self.identifier}>" if self.train_token else self.identifier

    @property
    def lora_alpha(self) -> float:
        """Alpha, the rank where none is given: a scale of 1."""
        return float(self.rank if self.alpha is None else self.alpha)

    def fingerprint(self) -> dict[str, object]:
        """The settings a run must keep when it is taken up again."""
        free = set(FREE_TO_CHANGE)
        if self.lr_scheduler in ("linear", "cosine"):  # these depend on where the run ends
            free.discard("max_train_steps")
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in free}

    @property
    def digest(self) -> str:
        """sha256 of all settings that can change a result."""
        return digest_of(self.fingerprint() | {"max_train_steps": self.max_train_steps})
