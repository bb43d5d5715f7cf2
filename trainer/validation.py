"""Pictures painted during training, through `pipelines` and by the weights as they stand.

Each subject is painted back into its first photograph, in the box of its own mask, once for every validation prompt, so
that a glance shows identity, prompt and seam. Nothing random is shared with training: a run is the same with and
without them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from manifests.fsops import write_atomic
from manifests.pixels import box_from_mask

if TYPE_CHECKING:
    from manifests.corpus import Corpus
    from trainer.data import SubjectData
    from trainer.loop import Fit

__all__ = ["paint_validation"]


def paint_validation(corpus: Corpus, group: Sequence[SubjectData], fit: Fit, resolution: int) -> list[Path]:
    """Write `validation/<step>-<subject>-<prompt number>.png` in the run's folder; returns the files.

    A prompt may hold `{identifier}` and `{class_noun}`.
    """
    from pipelines.painter import Painter

    settings, recipe, unet = fit.recipe.settings, fit.recipe, fit.backbone.unet
    painting = {**recipe.inference(), "resolution": resolution, "num_inference_steps": settings.validation_inference}
    preset = painting.pop("preset")
    processors = dict(unet.attn_processors)  # painting may put its own in place
    files = []
    try:
        for index, subject in enumerate(group):
            painter = Painter(fit.backbone)  # it keeps the states of prompts, which may be the subject's own
            photograph = subject.photographs[0].sample
            box = box_from_mask(corpus.mask(photograph))
            for number, prompt in enumerate(settings.validation_prompts):
                text = prompt.replace("{identifier}", settings.word)
                text = text.replace("{class_noun}", subject.subject.class_noun)
                with fit.alone(index), fit.accelerator.autocast():
                    result = painter(corpus.image(photograph), box, text, seed=settings.seed, preset=preset, **painting)
                buffer = io.BytesIO()
                Image.fromarray(result.image).save(buffer, "PNG", compress_level=1)
                files.append(fit.folder / "validation" / f"{fit.step:06d}-{subject.id}-{number}.png")
                write_atomic(files[-1], buffer.getvalue())
    finally:
        unet.set_attn_processor(processors)
    return files
