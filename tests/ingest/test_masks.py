"""Given masks: accepted only where there is nothing to guess at."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dataforge.config import Limits
from dataforge.ingest.policy import normalise_mask
from manifests.errors import Fault
from manifests.pixels import decode_mask, encode_mask
from tests import nasty

CASES = list(nasty.mask_cases())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_mask_meets_its_expectation(case: nasty.Case) -> None:
    result = normalise_mask(case.data, width=64, height=48, limits=Limits())
    if isinstance(result, Fault):
        assert result.code == case.expected.code, result
        assert len(result.sentence) <= 300
        assert " at 0x" not in result.sentence
    else:
        assert case.expected.status == "accepted"
        assert (decode_mask(result) == nasty.mask_pixels()).all()


def test_sizes_are_both_named() -> None:
    (case,) = [case for case in CASES if case.name == "half-size"]
    result = normalise_mask(case.data, width=64, height=48, limits=Limits())
    assert isinstance(result, Fault)
    assert "32x24" in result.detail
    assert "64x48" in result.detail


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_for_photographs(orientation: int) -> None:
    mask = Image.fromarray(nasty.mask_pixels())
    data = nasty.encoded(mask, "PNG", exif=nasty.exif_block(orientation))
    turned = mask.size if orientation < 5 else mask.size[::-1]
    result = normalise_mask(data, width=turned[0], height=turned[1], limits=Limits())
    assert isinstance(result, bytes)
    assert decode_mask(result).sum() == nasty.mask_pixels().sum()
    if orientation == 8:
        assert (decode_mask(result) == nasty.mask_pixels()[:, ::-1].T).all()


def test_one_form_only_and_no_metadata() -> None:
    forms = set()
    for case in CASES:
        result = normalise_mask(case.data, width=64, height=48, limits=Limits())
        if isinstance(result, bytes):
            forms.add(result)
    assert forms == {encode_mask(nasty.mask_pixels())}
    tagged = nasty.with_chunks(nasty.encoded(nasty.mask_pixels(), "PNG"), nasty.chunk(b"tEXt", b"Author\0canary"))
    result = normalise_mask(tagged, width=64, height=48, limits=Limits())
    assert isinstance(result, bytes)
    assert b"canary" not in result
    with Image.open(io.BytesIO(result)) as image:
        assert (image.mode, image.info) == ("1", {})


def test_a_large_sparse_mask_is_not_suspicious() -> None:
    """A flat picture is no photograph, but a mask is mostly flat."""
    mask = nasty.mask_pixels(4000, 3000)
    result = normalise_mask(encode_mask(mask), width=4000, height=3000, limits=Limits())
    assert result == encode_mask(mask)
