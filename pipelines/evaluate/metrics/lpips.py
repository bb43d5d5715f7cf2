"""LPIPS of the background (Zhang et al. 2018, through the `lpips` package, whose wheel holds the linear heads)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from pipelines.evaluate.metrics import Column
from pipelines.evaluate.metrics.background import background
from pipelines.evaluate.metrics.devices import device
from pipelines.evaluate.pairs import Pair
from pipelines.evaluate.weights import MissingWeights, Weights

__all__ = ["BACKBONES", "Lpips"]

# torchvision's files, the ones the linear heads were fitted to
BACKBONES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


class Lpips:
    """`lpips_zeroed` counts the zeroed box as equal; `lpips_excluded` averages the map outside the box."""

    def __init__(
        self, weights: Weights, *, net: str = "vgg", side: int = 512, ways: Sequence[str] = ("zeroed", "excluded")
    ) -> None:
        self._side, self._ways = side, tuple(ways)
        self.model = _load(net, weights)
        model = f"lpips {version('lpips')} {net}, {weights}"
        steps = f"box zeroed in both, to {side}x{side} (Pillow bilinear), RGB in [-1,1]"
        crops = {"zeroed": "all, box counts as equal", "excluded": "the map outside the box"}
        self.columns = tuple(Column(f"lpips_{way}", "down", model, steps, crops[way]) for way in self._ways)

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Absent without a scene; `excluded` also where the box leaves nothing."""
        return [self._one(pair) for pair in pairs]

    def _one(self, pair: Pair) -> dict[str, float]:
        seen = background(pair, self._side)
        if seen is None:
            return {}
        maps = self.layers(seen.composite.to(device()) * 2 - 1, seen.scene.to(device()) * 2 - 1)
        scores = {}
        if "zeroed" in self._ways:
            scores["lpips_zeroed"] = float(sum(each.mean() for each in maps))
        outside = torch.from_numpy(seen.outside())
        if "excluded" in self._ways and outside.any():
            size = (self._side, self._side)
            whole = sum(torch.nn.functional.interpolate(each, size, mode="bilinear") for each in maps)
            assert isinstance(whole, torch.Tensor)
            scores["lpips_excluded"] = float(whole[0, 0].cpu()[outside].double().mean())
        return scores

    def layers(self, first: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor]:
        """The weighted difference at each layer [1,1,h,w], of two [1,3,H,W] in [-1,1].

        `lpips.LPIPS.forward` up to where it averages: both ways of averaging come out of one pass.
        """
        import lpips

        model = self.model
        outputs = zip(
            model.net.forward(model.scaling_layer(first)), model.net.forward(model.scaling_layer(second)), strict=True
        )
        return [
            head((lpips.normalize_tensor(a) - lpips.normalize_tensor(b)) ** 2)
            for head, (a, b) in zip(model.lins, outputs, strict=True)
        ]


def _load(net: str, weights: Weights) -> Any:
    import lpips

    with warnings.catch_warnings():
        # it asks torchvision in a way torchvision has renamed
        warnings.simplefilter("ignore", UserWarning)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        state = torch.load(weights.path, map_location="cpu", weights_only=True)
        # slice1.0.weight of lpips is features.0.weight of torchvision
        wanted = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
        model.net.load_state_dict({name: state[source] for name, source in wanted.items()})
    except Exception as error:
        raise MissingWeights(
            f"lpips: {weights.path.name} is no state of torchvision's {BACKBONES[net]} ({type(error).__name__})."
        ) from error
    return model.eval().to(device())
