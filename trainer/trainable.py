"""What is trained of a base, behind one small interface: stacked LoRAs, one DoRA, or the whole UNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from manifests.fsops import write_atomic
from trainer.stacked import StackedLora, lora_targets, write_lora

if TYPE_CHECKING:
    from pipelines.backbones import Backbone
    from trainer.settings import Settings

__all__ = ["Dora", "FullUnet", "StackedLoras", "Trainable", "make_trainable"]

ADAPTER = "default"


class Trainable(Protocol):
    """Parameters that a run moves, for `len(subjects)` subjects."""

    subjects: tuple[str, ...]

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        ...

    def slice_of(self, tensor: Tensor, index: int) -> Tensor:
        """The part of a parameter, of its gradient or of its moments, that belongs to one subject: a view."""
        ...

    def alone(self, index: int) -> AbstractContextManager[None]:
        """For the length of the block every item of a batch is this subject's."""
        ...

    def write(self, folder: Path, index: int, values: Mapping[str, Tensor]) -> None:
        """One subject's weights in diffusers' file layout; `values` are the parameters or averages of them."""
        ...

    def remove(self) -> None:
        """Leave the UNet as it was, as far as that is possible."""
        ...


def _lora_config(settings: Settings) -> dict[str, Any]:
    from peft import LoraConfig

    config: Any = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(settings.lora_targets),
        init_lora_weights="gaussian",
        use_dora=settings.method == "dora",
    )
    stated: dict[str, Any] = config.to_dict()
    return stated


class StackedLoras:
    """LoRA for any number of subjects over one frozen UNet."""

    def __init__(self, backbone: Backbone, subjects: Sequence[str], settings: Settings) -> None:
        self.subjects = tuple(subjects)
        self._config = _lora_config(settings)
        self.lora = StackedLora(
            backbone.unet,
            subjects,
            rank=settings.rank,
            alpha=settings.lora_alpha,
            targets=settings.lora_targets,
            seed=settings.seed,
        )

    def named(self) -> dict[str, nn.Parameter]:
        """The stacked matrices."""
        return dict(self.lora.named_parameters())

    def slice_of(self, tensor: Tensor, index: int) -> Tensor:
        """Row `index` of the stack."""
        return tensor[index]

    def alone(self, index: int) -> AbstractContextManager[None]:
        """One row of the stack for all."""
        return self.lora.alone(index)

    def write(self, folder: Path, index: int, values: Mapping[str, Tensor]) -> None:
        """`pytorch_lora_weights.safetensors`."""
        write_lora(folder, self.lora.layer_weights(index, values), self._config)

    def remove(self) -> None:
        """Take the hooks off."""
        self.lora.remove()


class _OneSubject:
    """What DoRA and the full fine-tune share: all gradients are the one subject's."""

    subjects: tuple[str, ...]
    _parameters: dict[str, nn.Parameter]

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return self._parameters

    def slice_of(self, tensor: Tensor, index: int) -> Tensor:
        """All of it."""
        del index
        return tensor

    def alone(self, index: int) -> AbstractContextManager[None]:
        """It always is."""
        del index
        return nullcontext()


class Dora(_OneSubject):
    """Weight-decomposed LoRA by peft (Liu et al. 2024), for one subject."""

    def __init__(self, backbone: Backbone, subjects: Sequence[str], settings: Settings) -> None:
        from peft import LoraConfig

        self.subjects, self._unet = tuple(subjects), backbone.unet
        self._config = _lora_config(settings)
        lora_targets(backbone.unet, settings.lora_targets)  # its sentence is better than peft's
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self._unet.add_adapter(LoraConfig(**self._config), adapter_name=ADAPTER)
        self._parameters = {name: p for name, p in self._unet.named_parameters() if p.requires_grad}
        for parameter in self._parameters.values():
            parameter.data = parameter.data.float()

    def write(self, folder: Path, index: int, values: Mapping[str, Tensor]) -> None:
        """`pytorch_lora_weights.safetensors`, magnitudes included."""
        from peft import get_peft_model_state_dict

        del index
        full = {**self._unet.state_dict(), **values}
        weights = get_peft_model_state_dict(self._unet, state_dict=full, adapter_name=ADAPTER)
        write_lora(folder, {name: tensor.contiguous().cpu() for name, tensor in weights.items()}, self._config)

    def remove(self) -> None:
        """Unload the adapter; the base's own weights were never touched."""
        self._unet.unload_lora()


class FullUnet(_OneSubject):
    """Every weight of the UNet."""

    def __init__(self, backbone: Backbone, subjects: Sequence[str], settings: Settings) -> None:
        del settings
        self.subjects, self._unet = tuple(subjects), backbone.unet
        self._unet.requires_grad_(True)
        self._parameters = dict(self._unet.named_parameters())

    def write(self, folder: Path, index: int, values: Mapping[str, Tensor]) -> None:
        """`unet/`, as `from_pretrained` of the UNet's class reads it; what is trained beside it is not in there."""
        del index
        own = {name: values[name].detach().contiguous().cpu() for name in self._parameters}
        content = safetensors.torch.save(own, {"format": "pt"})
        self._unet.save_config(folder / "unet")
        write_atomic(folder / "unet" / "diffusion_pytorch_model.safetensors", content)

    def remove(self) -> None:
        """Freeze it again. The weights stay changed: who trains another subject loads the base again."""
        self._unet.requires_grad_(False)


def make_trainable(backbone: Backbone, subjects: Sequence[str], settings: Settings) -> Trainable:
    """What `settings.method` trains. DoRA and the full fine-tune take one subject (or one joint model) at a time."""
    kinds: dict[str, Callable[[Backbone, Sequence[str], Settings], Trainable]] = {
        "lora": StackedLoras,
        "dora": Dora,
        "full": FullUnet,
    }
    return kinds[settings.method](backbone, subjects, settings)
