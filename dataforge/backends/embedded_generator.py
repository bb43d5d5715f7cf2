"""Regular pictures made from a subject's own pixels: recoloured, retextured and set into other scenes; no weights."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dataforge.backends.colour_names import BASIC_TERMS, basic_term, colour_shares, lab_from_rgb, rgb_from_lab, term_map
from dataforge.backends.cutout import Cutout, FloatArray, cut_out
from dataforge.backends.recolour import nudge, paint, painted_region
from dataforge.backends.retexture import retexture
from dataforge.backends.scenes import Scene, given_scene, painted_scene
from dataforge.backends.vocabulary import COLOUR_TARGETS, TREATMENTS, can_show, plain
from dataforge.protocols import GeneratedImage, GenerationRequest
from manifests.errors import Fault
from manifests.pixels import ImageArray, MaskArray
from manifests.records import Score, Word

__all__ = ["EmbeddedGenerator"]

Rng = np.random.Generator
_COVERS = (0.5, 0.86, None)  # how much of a subject is painted, effort by effort; None is all of it
_ENOUGH = 0.5  # share of the subject that must have the asked colour for the least painting to do
_MARGIN = 1.5  # by how much it must lead the next colour, so that other readers of the picture name it too


class EmbeddedGenerator:
    """Cuts the subject out, gives it the prompt's words, and composes it into a given or painted scene.

    A word the pixels cannot be given (a shape, a state, a hat) is a fault, never a picture that does not show it.
    Words of origin `source` other than colours are left to the photograph, which has them.
    """

    name = "embedded"
    model = ""
    version = "1"
    own_pixels = True
    can_show = staticmethod(can_show)

    def __init__(
        self, size: int = 512, subject_share: tuple[float, float] = (0.46, 0.76), keep_details: bool = False
    ) -> None:
        self.size = size
        self.subject_share = subject_share
        self.efforts = 1 if keep_details else len(_COVERS)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GeneratedImage | Fault]:
        """One picture (uint8 SxSx3 RGB, S = the request's size or else this generator's) or fault per request.

        The mask follows from the making (alpha >= 0.5); `parents` holds the photograph's ID. Equal requests give
        equal bytes. Faults are E221 and name the word that cannot be shown, or say that there is no masked source.
        """
        return [self._generate(request) for request in requests]

    def _generate(self, request: GenerationRequest) -> GeneratedImage | Fault:
        for word in request.prompt.words:
            if word.origin == "candidate" and not can_show(word.category, word.word):
                return Fault("E221", f"the embedded generator cannot show the word {word.word!r}")
        usable = [index for index, mask in enumerate(request.masks) if mask.sum() >= 64]
        if not usable:
            return Fault("E221", "no source photograph with a mask to make a picture from")
        colours = [word for word in request.prompt.words if word.category == "colour"]
        asked = plain(colours[0].word) if colours else None
        best: GeneratedImage | None = None
        best_share = 0.0
        size = request.size or self.size
        for effort in range(self.efforts):
            picture, share = _make(request, usable, asked, size, self.subject_share, effort)
            if isinstance(picture, Fault):
                return picture
            if share >= _ENOUGH:
                return picture
            if share > best_share:
                best, best_share = picture, share
        if best is not None:
            return best
        return Fault("E221", f"the embedded generator could not give the subject the colour {asked!r}")


def _make(
    request: GenerationRequest,
    usable: list[int],
    asked: str | None,
    size: int,
    subject_share: tuple[float, float],
    effort: int,
) -> tuple[GeneratedImage | Fault, float]:
    """A picture and the share of the subject that has the asked colour, or 0 where another colour leads."""
    # a stream each, so that with equal seeds another word changes the subject and nothing else
    source_rng, word_rng, scene_rng, place_rng = np.random.default_rng(request.seed).spawn(4)
    index = usable[int(source_rng.integers(len(usable)))]
    photo, mask = request.sources[index], request.masks[index]
    cutout = cut_out(photo.image, mask, side=round(size * source_rng.uniform(*subject_share)))
    if not (cutout.alpha >= 0.5).any():
        return Fault("E221", "the subject is too thin to be cut out at this size"), 0.0
    treated = _treat(cutout, request.prompt.words, word_rng, effort)
    if request.scenes and scene_rng.random() < 0.6:
        scene = given_scene(request.scenes[int(scene_rng.integers(len(request.scenes)))], size, scene_rng)
    else:
        scene = painted_scene(size, scene_rng)
    image, alpha = _compose(treated, scene, place_rng)
    made = alpha >= 0.5
    share = 1.0
    scores: tuple[Score, ...] = ()
    if asked is not None and basic_term(asked) is not None:
        share = _share_of(basic_term(asked) or "", image, made)
        scores = (Score(name="asked_colour_share", value=round(share, 4)),)
    return GeneratedImage(image=image, mask=made, parents=(photo.id,), scores=scores), share


def _share_of(term: str, image: ImageArray, mask: MaskArray) -> float:
    """How much of the subject's area has the colour; 0 where another colour comes near it."""
    areas = np.bincount(term_map(image)[mask], minlength=len(BASIC_TERMS)) / max(int(mask.sum()), 1)
    own = float(areas[BASIC_TERMS.index(term)])
    others = float(np.delete(areas, BASIC_TERMS.index(term)).max())
    clear = own >= _MARGIN * others and (own >= 0.5 or colour_shares(image, mask).main == term)
    return own if clear else 0.0


def _treat(cutout: Cutout, words: Sequence[Word], rng: Rng, effort: int) -> Cutout:
    """The subject with the prompt's words on it."""
    image = cutout.image
    mask = cutout.alpha >= 0.5
    coloured = False
    body = painted_region(image, mask, cover=_COVERS[1] or 1.0)
    for word in words:
        target = COLOUR_TARGETS.get(plain(word.word))
        if word.category != "colour" or target is None:
            continue
        coloured = True
        cover = _COVERS[effort]
        region = None if cover is None else painted_region(image, mask, cover=cover)
        has_it = colour_shares(image, mask).main == basic_term(plain(word.word))
        if word.origin == "source" and has_it and effort == 0 and region is not None:
            image = nudge(image, mask, target, region)
        else:
            image = paint(image, mask, target, region)
    for word in words:
        if word.origin == "candidate" and (treatment := TREATMENTS.get((word.category, plain(word.word)))):
            image = retexture(treatment, image, mask, rng, keep_colour=coloured, region=body, photograph=cutout.image)
    return Cutout(image, cutout.alpha, cutout.cut)


def _compose(cutout: Cutout, scene: Scene, rng: Rng) -> tuple[ImageArray, FloatArray]:
    """The subject set into the scene: uint8 SxSx3 RGB and its alpha, float32 SxS."""
    size = scene.image.shape[0]
    flip = rng.random() < 0.5
    image, alpha, cut = cutout.image, cutout.alpha, set(cutout.cut)
    if flip:
        image, alpha = image[:, ::-1], alpha[:, ::-1]
        cut = {{"left": "right", "right": "left"}.get(side, side) for side in cut}
    place = _placement(image.shape[:2], cut, scene, rng)
    image = cv2.warpAffine(
        np.ascontiguousarray(image),
        place,
        (size, size),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    alpha = np.clip(cv2.warpAffine(np.ascontiguousarray(alpha), place, (size, size), flags=cv2.INTER_LINEAR), 0, 1)
    ground = scene.image.astype(np.float32) * (1 - _shadow(alpha, cut, rng))[..., None]
    subject = _harmonised(image, alpha, scene.image).astype(np.float32)
    mixed = alpha[..., None] * subject + (1 - alpha[..., None]) * ground
    mixed += rng.normal(0, 1.3, (size, size, 1)).astype(np.float32)  # one grain over both, as one sensor would give
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8), np.asarray(alpha, np.float32)


def _placement(shape: tuple[int, int], cut: set[str], scene: Scene, rng: Rng) -> FloatArray:
    """The 2x3 matrix from cut-out to scene pixels: on the floor, or flush with the frame where it was cut off."""
    size = scene.image.shape[0]
    height, width = shape
    scale = 1.0
    if {"left", "right"} <= cut:
        scale = size / width
    elif {"top", "bottom"} <= cut:
        scale = size / height
    angle = 0.0 if cut else float(rng.uniform(-6, 6))
    height_now, width_now = height * scale, width * scale
    free_x, free_y = size - width_now, size - height_now
    margin = 0.03 * size
    left, right = min(margin, free_x / 2), max(free_x - margin, free_x / 2)
    low = size - margin
    high = min(max((scene.horizon + 0.1) * size, height_now + margin), low)
    # of a few places to stand, the one with the calmest ground
    spots = [(float(rng.uniform(left, right)), float(rng.uniform(high, low))) for _ in range(8)]
    x, base = min(spots, key=lambda spot: _unrest(scene.image, spot[0], spot[1], width_now, size))
    y = base - height_now
    x = 0.0 if "left" in cut else free_x if "right" in cut else x
    y = free_y if "bottom" in cut else 0.0 if "top" in cut else y
    turn = cv2.getRotationMatrix2D((width / 2, height), angle, scale)
    turn[:, 2] += (x + width_now / 2 - width / 2, y + height_now - height)
    return np.asarray(turn, np.float32)


def _unrest(scene: ImageArray, x: float, base: float, width: float, size: int) -> float:
    band = scene[
        max(0, round(base - 0.06 * size)) : round(base + 0.05 * size) : 4,
        max(0, round(x)) : max(1, round(x + width)) : 4,
    ]
    return float(band.astype(np.float32).std(axis=(0, 1)).sum()) if band.size else 1e9


def _shadow(alpha: FloatArray, cut: set[str], rng: Rng) -> FloatArray:
    """How much light the subject takes from the ground, float32 SxS in 0..1: a cast and a contact shadow."""
    size = alpha.shape[0]
    lean, length, depth = (
        float(rng.uniform(-0.7, 0.7)),
        float(rng.uniform(0.12, 0.28)),
        float(rng.uniform(0.3, 0.5)),
    )
    rows = np.flatnonzero((alpha > 0.5).any(axis=1))
    if not len(rows) or "bottom" in cut:
        return np.zeros_like(alpha)
    base = float(rows[-1])
    # the outline laid down on the floor: y shrinks towards the base line, x leans with the light
    lay = np.array([[1, -lean * length, lean * length * base], [0, length, (1 - length) * base]], np.float32)
    cast = cv2.warpAffine(alpha, lay, (size, size), flags=cv2.INTER_LINEAR)
    cast = cv2.GaussianBlur(cast, (0, 0), size * 0.016)
    tall = max(base - rows[0], 1.0)
    y = np.arange(size, dtype=np.float32)[:, None]
    feet = alpha * np.clip(1 - (base - y) / (0.12 * tall), 0, 1)
    contact = cv2.GaussianBlur(np.roll(feet, 2, axis=0), (0, 0), size * 0.007)
    return np.asarray(np.clip(depth * cast + 0.5 * np.clip(1.5 * contact, 0, 1), 0, 0.8), np.float32)


def _harmonised(image: ImageArray, alpha: FloatArray, scene: ImageArray) -> ImageArray:
    """The subject a little under the scene's light: never enough to change the name of its colour."""
    made: MaskArray = alpha >= 0.5
    if not made.any():
        return image
    lab = lab_from_rgb(image)
    around = lab_from_rgb(cv2.resize(scene, (32, 32), interpolation=cv2.INTER_AREA)).reshape(-1, 3).mean(0)
    own = lab[made].mean(0)
    shift = np.clip(0.05 * (around - own), -2, 2)
    shift[1:] = np.clip(0.05 * around[1:], -1.5, 1.5)
    return rgb_from_lab(lab + shift.astype(np.float32))
