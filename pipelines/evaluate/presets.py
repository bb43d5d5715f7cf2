"""Named presets: everything that decides a score, in one closed record per protocol of measurement.

`ours` is this project's own, `dreamedit` is DreamEditBench's scripts, `bcmi` the DreamCom lab's scripts for COCOEE;
whether DreamCom's tables were made so is not known. DreamMix published no protocol, so there is no preset for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.errors import UsageError
from manifests.ids import digest_of
from manifests.overrides import describe, load_yaml

__all__ = ["PRESETS", "Preset", "load_preset"]

Crop = Literal["whole", "box", "mask", "scene"]
Way = Literal["zeroed", "excluded"]
Side = Annotated[int, Field(ge=32, le=2048)]


class Section(BaseModel):
    """A closed, frozen group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageEncoder(Section):
    """CLIP or DINO as an image encoder: the model (a folder or a Hub name), and what it is shown."""

    model: str
    revision: str = ""
    crops: tuple[Crop, ...] = ("box", "mask")
    plain: bool = False  # resize to the square outright, no centre crop
    first_to: Side | None = None  # resize the picture to this square before all else
    scale: float = 1.0
    resize_references: bool = False


class Clip(ImageEncoder):
    """CLIP: CLIP-I under `crops`, CLIP-T under `text_crops`."""

    model: str = "openai/clip-vit-base-patch32"
    text_crops: tuple[Literal["whole", "box", "mask"], ...] = ("box",)
    fid_crop: Literal["whole", "box", "mask"] | None = "box"


class Dino(ImageEncoder):
    """DINO's CLS token."""

    model: str = "facebook/dino-vits16"


class Lpips(Section):
    """LPIPS of the background; `weights` is torchvision's file of the backbone, by default in torch's cache."""

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    weights: str = ""
    side: Side = 512
    ways: tuple[Way, ...] = ("zeroed", "excluded")


class Ssim(Section):
    """SSIM of the background."""

    side: Side = 512
    ways: tuple[Way, ...] = ("zeroed", "excluded")


class Fid(Section):
    """FID; `weights` is torch-fidelity's Inception file, by default in torch's cache."""

    weights: str = ""
    crop: Literal["whole", "box", "mask"] = "box"
    layer: Literal[64, 192, 768, 2048] = 2048


class Segmenter(Section):
    """SAM, prompted with the box, for the mask of the object in a composite."""

    model: str = "facebook/sam-vit-huge"
    revision: str = ""


class Preset(Section):
    """One way of measuring; None leaves a metric out."""

    name: str
    source: str
    clip: Clip | None = Clip()
    dino: Dino | None = Dino()
    lpips: Lpips | None = Lpips()
    ssim: Ssim | None = Ssim()
    fid: Fid | None = Fid()
    segmenter: Segmenter | None = None
    overall: bool = False
    changed: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name, with what was set on top of it."""
        return f"{self.name} with {', '.join(self.changed)}" if self.changed else self.name

    @property
    def digest(self) -> str:
        """16 hex digits that change with any setting."""
        return digest_of(self.model_dump(mode="json"))[:16]

    def of_whole_pictures(self) -> Preset:
        """The same for what is painted on an empty canvas: whole pictures on both sides, and no background.

        The box of such a composite is everything, that of a photograph is not: crops by box or mask would compare
        unlike things.
        """
        clip = self.clip and self.clip.model_copy(
            update={
                "crops": ("whole",),
                "text_crops": ("whole",) if self.clip.text_crops else (),
                "fid_crop": "whole" if self.clip.fid_crop else None,
            }
        )
        return self.model_copy(
            update={
                "clip": clip,
                "dino": self.dino and self.dino.model_copy(update={"crops": ("whole",)}),
                "fid": self.fid and self.fid.model_copy(update={"crop": "whole"}),
                **dict.fromkeys(("lpips", "ssim", "segmenter")),
                "overall": False,
                "changed": (*self.changed, "whole pictures"),
            }
        )


_WHOLE: dict[str, Any] = {"crops": ("whole", "scene"), "first_to": 512}
_CUT_OUT: dict[str, Any] = {"crops": ("mask",), "plain": True, "scale": 100.0, "resize_references": True}

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="ours", source="foreground by box, background both ways"),
        Preset(
            name="dreamedit",
            source="DreamEditBench's scripts: whole pictures at 512, background as similarity with the source",
            clip=Clip(**_WHOLE, text_crops=(), fid_crop=None),
            dino=Dino(**_WHOLE),
            lpips=None,
            ssim=None,
            fid=None,
            overall=True,
        ),
        Preset(
            name="bcmi",
            source="the DreamCom lab's scripts for COCOEE: object cut out by SAM, box zeroed in the background; DINO's "
            "CLS token in place of a pooler without weights",
            clip=Clip(**_CUT_OUT, text_crops=(), fid_crop="mask"),
            dino=Dino(**_CUT_OUT),
            lpips=Lpips(ways=("zeroed",)),
            ssim=Ssim(ways=("zeroed",)),
            fid=None,
            segmenter=Segmenter(),
        ),
    )
}


def load_preset(name: str, sets: list[str] | None = None) -> Preset:
    """A preset by name, with `key.path=value` on top; what was set becomes part of its title.

    Raises `UsageError` E503 for an unknown name, E502 for a setting that is wrong.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}; there are {', '.join(PRESETS)}.", code="E503")
    values = PRESETS[name].model_dump()
    for assignment in sets or []:
        key, mark, text = assignment.partition("=")
        *groups, last = key.split(".")
        if not mark or not last:
            raise UsageError(f"--set takes key=value, not {assignment!r}.")
        place = values
        for group in groups:
            if place is values and values.get(group, 0) is None:
                values[group] = {}  # a metric the preset leaves out comes in with its defaults
            if not isinstance(place.get(group), dict):
                raise UsageError(f"--set {assignment}: {group} is no group of settings in preset {name}.", code="E502")
            place = place[group]
        place[last] = load_yaml(text.encode(), where=f"--set {assignment}")
        if last in ("model", "weights"):
            text = str(text).rstrip("/").rpartition("/")[2] if text.startswith(("/", ".", "~")) else text
        values["changed"] = (*values["changed"], f"{key}={text}")
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"preset {name}: {describe(error)}.", code="E502") from error
