"""What the ablations ask, as data: trainings, ways to paint with them, the scenes, and what the papers report.

A question's arms differ in one thing from the arm they are compared with (`over`). Published figures are of another
protocol (CLIP and DINO on photographs): only their direction can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tour.walk import DREAMMIX, PLACE
from toyworld.render import Scene
from toyworld.subjects import Places, Subject

__all__ = ["QUESTIONS", "TRAININGS", "Arm", "Question", "Training"]


@dataclass(frozen=True, slots=True)
class Training:
    """One set of adapters: recipe, what is set on top, how many photographs (None: all five), and whether the regular
    pictures are plain things of the class instead of the subject's own pixels."""

    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    references: int | None = None
    plain_things: bool = False


TRAININGS = {
    "regular and own colour named": Training("dreammix", DREAMMIX),
    "regular": Training("dreammix", {**DREAMMIX, "name_source_words": 0.0}),
    "own colour named": Training("dreammix", {**DREAMMIX, "regular_prob": 0.0}),
    "regular as class and own colour named": Training("dreammix", {**DREAMMIX, "own_pixels_prompt": "class"}),
    "regular as class": Training("dreammix", {**DREAMMIX, "own_pixels_prompt": "class", "name_source_words": 0.0}),
    "plain things": Training("dreammix", {**DREAMMIX, "name_source_words": 0.0}, plain_things=True),
    "plain things and own colour named": Training("dreammix", DREAMMIX, plain_things=True),
    "photographs": Training("dreammix", {**DREAMMIX, "regular_prob": 0.0, "name_source_words": 0.0}),
    "linear weights": Training("dreammix:paper", DREAMMIX),
    **{f"{count} reference{'s' * (count > 1)}": Training("dreammix", DREAMMIX, count) for count in range(1, 5)},
    "masked cross-attention": Training("dreamcom", {"name_source_words": 0.0}),
    "plain attention": Training("dreamcom", {"name_source_words": 0.0, "cross_attention": "none"}),
}
"""Names of adapters; what is set here wins over the settings that all share."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do it: adapters, preset and settings to paint with, and the arm it is compared with."""

    name: str
    training: str
    settings: dict[str, Any] = field(default_factory=dict)
    preset: str = "plain"
    over: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared, where, and by which column of the table the answer is given."""

    asks: str
    published: str
    arms: tuple[Arm, ...]
    places: Places = PLACE
    suits: Callable[[Subject, Scene], bool] = lambda subject, scene: True
    edits: bool = False  # paint the subject in another colour, instead of as it is
    judged_by: str = "right"


def _of_same_class(subject: Subject, scene: Scene) -> bool:
    """Whether all else in the scene is of the subject's class in another colour, and there is something."""
    things = scene.things
    return bool(things) and all(t.shape == subject.shape and t.colour != subject.colour for t in things)


_FULL = "regular and own colour named"
_TAS = {"tas.stages": ("lcg", "gch")}
_SMALL = Places(canvas=128, size=(0.12, 0.18))
_CROSS = {"masks.cross": "paper", "masks.self_layers": "none"}

QUESTIONS = {
    "dif": Question(
        "Local content first, then the whole frame (DIF), for small things on a canvas of 128 px?",
        "DreamMix table 3: +DIF raises CLIP-T .253 to .291, CLIP-I .644 to .723, DINO .628 to .717 (identity)",
        (
            Arm("whole frame only", _FULL),
            Arm("DIF, lambda .7", _FULL, {"lambda_gch": 0.7}, over="whole frame only"),
            Arm("DIF, lambda .33", _FULL, {"lambda_gch": 0.33}, over="whole frame only"),
            Arm("crop only", _FULL, {"lambda_gch": 0.0}, over="whole frame only"),
        ),
        _SMALL,
    ),
    "edits": Question(
        "For another colour: regular data (the subject's own pixels under the identifier or the class, or plain things "
        "of the class), the own colour named in training, TAS?",
        "DreamMix table 3: TAS raises CLIP-T of edits .265 to .275, regular data (ADM) to .289; "
        "both lower DINO a little (.708, .700, .695)",
        (
            Arm("photographs alone", "photographs"),
            Arm("photographs alone, TAS", "photographs", _TAS, over="photographs alone"),
            Arm("regular data as the class", "regular as class", over="photographs alone"),
            Arm("regular data as the class, TAS", "regular as class", _TAS, over="regular data as the class"),
            Arm(
                "regular data as the class, own colour named",
                "regular as class and own colour named",
                over="regular data as the class",
            ),
            Arm("regular data", "regular", over="photographs alone"),
            Arm("regular data, TAS", "regular", _TAS, over="regular data"),
            Arm("regular data, own colour named", _FULL, over="regular data"),
            Arm("regular data, own colour named, TAS", _FULL, _TAS, over="regular data, own colour named"),
            Arm("own colour named", "own colour named", over="photographs alone"),
            Arm("plain things", "plain things", over="photographs alone"),
            Arm("plain things, TAS", "plain things", _TAS, over="plain things"),
            Arm("plain things, own colour named", "plain things and own colour named", over="plain things"),
        ),
        edits=True,
    ),
    "cross": Question(
        "Masked cross-attention (training and painting), with another thing of the same class in the scene?",
        "DreamCom table 4: without it DINO falls .584 to .566, CLIP-I .778 to .771",
        (
            Arm("plain attention", "plain attention"),
            Arm("masked cross-attention", "masked cross-attention", _CROSS, over="plain attention"),
        ),
        replace(PLACE, same_shape=1.0, others=(0.0, 1.0, 0.0)),
        _of_same_class,
    ),
    "self": Question(
        "Masked self-attention when painting, before a wall of a strong colour?",
        "DreamCom table 4: without it DINO falls .584 to .573, CLIP-I .778 to .775",
        (
            Arm("cross-attention masked alone", "masked cross-attention", _CROSS),
            Arm(
                "self-attention masked too",
                "masked cross-attention",
                {"masks.cross": "paper", "masks.self_layers": "paper"},
                over="cross-attention masked alone",
            ),
        ),
        replace(PLACE, strong_wall=1.0),
        judged_by="error",
    ),
    "references": Question(
        "How many photographs?",
        "DreamCom supplement table 1, 1 to 5: DINO .539, .573, .581, .586, .584",
        (
            Arm("1 photograph", "1 reference"),
            *(Arm(f"{count} photographs", f"{count} references", over="1 photograph") for count in (2, 3, 4)),
            Arm("5 photographs", _FULL, over="1 photograph"),
        ),
    ),
    "presets": Question(
        "DreamMix as its paper says, or as its release does, for small things on a canvas of 128 px?",
        "none: the two are not compared in print",
        (
            Arm("paper", "linear weights", preset="paper"),
            # of its 30 steps it spends 20 on the crop: here 8 of 12
            Arm("released", _FULL, {"switch_step": 8}, preset="released", over="paper"),
        ),
        _SMALL,
    ),
}
