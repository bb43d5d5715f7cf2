"""A corpus with other regular pictures: plain things of the class, as a text-to-image model would make them.

The corpus of a build has the subject's own pixels in other colours, its mark included. Here each of those is replaced
by a render of an unmarked thing of the class in the colour it was to show; prompts, photographs and IDs stay.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from manifests.corpus import Corpus, open_corpus
from manifests.header import HEADER_NAME
from manifests.ids import sha256_hex
from manifests.pixels import box_from_mask, encode_mask
from manifests.records import MemberRef, Sample
from manifests.writer import CorpusContent, UnpackedSample, commit_corpus, write_derived
from toyworld.render import render
from toyworld.scenes import generator, random_scene
from toyworld.subjects import LIKENESS
from toyworld.words import COLOURS

__all__ = ["with_plain_things"]


def with_plain_things(source: Path, output: Path) -> Path:
    """Write the corpus `source` to `output` with plain things as its regular pictures, unless it is there already."""
    if (output / HEADER_NAME).exists():
        return output
    with open_corpus(source) as corpus:
        content = CorpusContent(
            samples=lambda: _samples(corpus),
            subjects=list(corpus.subjects.values()),
            ledger=corpus.ledger,
            recipe=corpus.header.recipe,
            made_with=corpus.header.made_with,
            shard_bytes=64 << 20,
        )
        commit_corpus(output, content)
    with open_corpus(output) as corpus:
        write_derived(output, corpus.samples())
    return output


def _samples(corpus: Corpus) -> Iterator[UnpackedSample]:
    for number, sample in enumerate(corpus.samples()):
        if sample.role == "reg":
            yield _plain(sample, number)
        else:
            yield UnpackedSample(sample, partial(corpus.image_bytes, sample), partial(corpus.mask_bytes, sample))


def _plain(sample: Sample, number: int) -> UnpackedSample:
    rng = generator(0, "plain things", number)
    named = [attribute.word for attribute in sample.attributes if attribute.category == "colour"]
    colour = named[0] if named else str(rng.choice(list(COLOURS)))
    scene = random_scene(rng, (sample.class_noun, colour, "plain"), float(rng.uniform(*LIKENESS)), sample.width)
    picture = render(scene)
    mask = picture.masks[-1]
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "png")
    image, mask_png = buffer.getvalue(), encode_mask(mask)
    made = replace(
        sample,
        own_pixels=False,
        parents=(),
        source_uri="",
        box_xyxy=box_from_mask(mask),
        mask_area=float(mask.mean()),
        rival_outline=(),
        image=MemberRef(shard="", offset=0, length=len(image), format="png", sha256=sha256_hex(image)),
        mask=MemberRef(shard="", offset=0, length=len(mask_png), format="png", sha256=sha256_hex(mask_png)),
    )
    return UnpackedSample(made, lambda: image, lambda: mask_png)
