"""Ten thousand damaged files: each becomes a photograph that decodes, or a fault; nothing else happens."""

from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np
from PIL import Image

from dataforge.config import Ingest, Limits
from dataforge.ingest.policy import Photograph, normalise_mask, normalise_photograph
from manifests.errors import CODES, Fault
from manifests.pixels import decode_image, decode_mask
from tests import nasty

MUTANTS = 10_000


def bases() -> list[bytes]:
    """A dozen and some tiny pictures of all kinds."""
    picture = nasty.pixels(2, 40, 32)
    image = Image.fromarray(picture)
    alpha = np.dstack([picture, picture[..., 0]])
    made = nasty.encoded
    return [
        made(image, "JPEG", exif=nasty.exif_block(6), icc_profile=nasty.wide_profile()),
        made(image, "JPEG", progressive=True),
        made(image, "JPEG", restart_marker_blocks=1, comment=b"hello"),
        made(image.convert("CMYK"), "JPEG"),
        nasty.frames("MPO", 2),
        made(image, "PNG", icc_profile=nasty.srgb_profile(), exif=nasty.exif_block(3)),
        made(image.quantize(16), "PNG", transparency=3),
        made(alpha, "PNG"),
        made(picture[..., 0].astype(np.uint16) * 257, "PNG"),
        made(image, "WEBP", quality=80),
        nasty.webp_with(made(image, "WEBP", lossless=True), (b"EXIF", nasty.exif_block(8))),
        nasty.frames("WEBP", 2),
        made(image.quantize(32), "GIF"),
        nasty.frames("GIF", 2),
        made(image, "BMP"),
        made(image, "TIFF"),
        made(image, "TIFF", compression="tiff_deflate"),
        made(image, "TIFF", compression="jpeg"),
        made(picture[..., 0].astype(np.float32), "TIFF"),
        made(image, "AVIF", quality=60),
    ]


def mutant(rng: random.Random, pool: list[bytes]) -> bytes:
    """One file, damaged once or a few times."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data)) if data else 0
        # half of all damage goes to the header, where it says most
        at = at if rng.random() < 0.5 else min(at, rng.randrange(200))
        way = rng.randrange(6)
        if way == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1 and data:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xD8, 0xD9, 0xDA, 0xFF))
        elif way == 2:
            del data[at : at + rng.choice((1, 2, 4, 16, 64, 10_000))]
        elif way == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 64)))
        elif way == 4:
            other = rng.choice(pool)
            start = rng.randrange(len(other))
            data[at : at + rng.choice((0, 8, 64))] = other[start : start + rng.choice((8, 64, 400))]
        else:
            run = rng.choice((2, 4, 32, 256))
            data[at : at + run] = bytes([rng.choice((0, 0xFF, 0x20))]) * min(run, len(data) - at)
    return bytes(data)


def mended(data: bytes) -> bytes:
    """A PNG with its checksums made right again, so that damage gets past them."""
    if not data.startswith(b"\x89PNG"):
        return data
    out, position = data[:8], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + length > len(data):
            break
        out += nasty.chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return out + data[position:]


def test_ten_thousand_mutants() -> None:
    rng = random.Random(20)
    pool = bases()
    settings = Ingest(first_frame=True, limits=Limits(min_side=1))
    outcomes: Counter[str] = Counter()
    began = time.process_time()
    slowest = 0.0
    for number in range(MUTANTS):
        data = mutant(rng, pool)
        data = mended(data) if number % 2 else data
        start = time.process_time()
        result = normalise_photograph(data, settings)
        slowest = max(slowest, time.process_time() - start)
        if isinstance(result, Fault):
            assert result.code in CODES
            assert " at 0x" not in result.sentence
            outcomes[result.code] += 1
        else:
            assert isinstance(result, Photograph)
            assert decode_image(result.data, result.format).shape == (result.height, result.width, 3)
            outcomes["accepted"] += 1
    took = time.process_time() - began
    counts = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
    print(f"{MUTANTS} mutants in {took:.1f} s CPU, slowest {slowest * 1000:.0f} ms: {counts}")
    assert sum(outcomes.values()) == MUTANTS
    assert took <= 60


def test_two_thousand_mutant_masks() -> None:
    rng = random.Random(21)
    pool = [case.data for case in nasty.mask_cases() if case.data]
    outcomes: Counter[str] = Counter()
    for number in range(2000):
        data = mutant(rng, pool)
        result = normalise_mask(mended(data) if number % 2 else data, width=64, height=48, limits=Limits())
        if isinstance(result, Fault):
            assert result.code in ("E201", "E202", "E203", "E212"), result
            outcomes[result.code] += 1
        else:
            assert decode_mask(result).shape == (48, 64)
            outcomes["accepted"] += 1
    print(f"2000 mutant masks: {outcomes.most_common()}")
