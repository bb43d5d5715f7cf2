"""The ingest policy on every nasty photograph, and what it does to pixels and to metadata."""

from __future__ import annotations

import io
import os
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from dataforge.config import Ingest, Limits
from dataforge.ingest import policy
from dataforge.ingest.container import NOTES
from dataforge.ingest.policy import Photograph, normalise_photograph, read_file
from manifests.errors import CODES, EnvironmentFault, Fault
from manifests.pixels import decode_image
from tests import nasty

CASES = list(nasty.photograph_cases())


def taken(data: bytes, **settings: Any) -> Photograph:
    result = normalise_photograph(data, Ingest(**settings))
    assert isinstance(result, Photograph), result
    return result


def refused(data: bytes, **settings: Any) -> Fault:
    result = normalise_photograph(data, Ingest(**settings))
    assert isinstance(result, Fault), result
    return result


def shown(photograph: Photograph) -> npt.NDArray[np.int16]:
    picture = decode_image(photograph.data, photograph.format).astype(np.int16)
    assert picture.shape == (photograph.height, photograph.width, 3)
    return picture


def decoded(data: bytes) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def far(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


# every case ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_case_meets_its_expectation(case: nasty.Case) -> None:
    began = time.process_time()
    result = normalise_photograph(case.data, Ingest())
    took = time.process_time() - began
    assert took < 2, f"{took:.1f} s"
    if isinstance(result, Fault):
        assert case.expected.status in ("quarantined", "either"), result
        assert case.expected.code in ("", result.code), result
        assert len(result.sentence) <= 300
        assert " at 0x" not in result.sentence
    else:
        assert case.expected.status in ("accepted", "either"), result.notes
        shown(result)
        assert set(result.notes) <= NOTES.keys()
        if case.expected.status == "accepted":
            assert set(result.notes) == case.expected.notes


def test_the_set_is_as_large_as_promised() -> None:
    assert len(CASES) >= 62
    assert len({case.name for case in CASES}) == len(CASES)
    codes = {case.expected.code for case in CASES}
    assert {c for c in CODES if c.startswith("E1")} - codes == (
        # files and folders; the corpus; the worker
        {"E101", "E103", "E104", "E106", "E107", "E170", "E171", "E197", "E198"}
    )
    print(f"{len(CASES)} nasty photographs")


@pytest.mark.parametrize("kind", ["gif-animated", "webp-animated", "png-animated", "tiff-pages"])
def test_first_frame_of_an_animation_where_asked_for(kind: str) -> None:
    (case,) = [case for case in CASES if case.name == kind]
    photograph = taken(case.data, first_frame=True)
    assert "first-frame" in photograph.notes
    assert far(shown(photograph), nasty.pixels()) < 12  # GIF has 256 colours


def test_blank_where_asked_for() -> None:
    (case,) = [case for case in CASES if case.name == "black"]
    assert not shown(taken(case.data, keep_blank=True)).any()


def test_looks_like_is_said() -> None:
    by_name = {case.name: case.data for case in CASES}
    assert "text/html" in refused(by_name["html"]).detail
    assert "image/svg+xml" in refused(by_name["svg"]).detail
    assert "postscript" in refused(by_name["eps-named.png"]).detail
    assert "AppleDouble" in refused(by_name["apple-double"]).detail
    assert "3001 scans > 100" in refused(by_name["jpeg-3000-scans"]).detail
    assert "13000x13000 = 169.0 MP > 50 MP" in refused(by_name["png-169mp"]).detail


def test_the_many_scans_are_real_scans() -> None:
    """The same file with few scans decodes, so it is the limit that refuses it."""
    few = nasty.many_scans(512, 512, 90)
    taken(few, keep_blank=True)
    assert refused(few, keep_blank=True, limits=Limits(max_jpeg_scans=90)).code == "E121"


def test_real_format_is_recorded() -> None:
    by_name = {case.name: case.data for case in CASES}
    assert taken(by_name["png-named.jpg"]).source_format == "PNG"
    assert taken(by_name["phone-mpo"]).source_format == "JPEG"
    assert taken(by_name["avif"]).source_format == "AVIF"


def test_limits_can_be_raised_past_pillows_own() -> None:
    huge = nasty.png_header(14000, 14000, 1, 0) + nasty.chunk(b"IDAT", nasty.zlib_zeros(24))
    huge += nasty.chunk(b"IEND", b"")
    limits = Limits(max_pixels=200_000_000, min_bytes_per_megapixel=10)
    assert refused(huge, limits=limits).code == "E160"  # so it was decoded


def test_settings_of_pillow_are_put_back_and_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    taken(nasty.jpeg())
    cut = nasty.encoded(nasty.pixels(), "GIF")[:-300]
    assert refused(cut).code == "E130"
    assert Image.MAX_IMAGE_PIXELS == 7
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), TypeError("Missing dimensions")])
def test_whatever_a_decoder_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(policy, "_opened", broken)
    fault = refused(nasty.jpeg())
    assert fault.code == "E199"
    assert type(error).__name__ in fault.detail


# pixels -------------------------------------------------------------------------------------------------------

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF-deflate", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int, kind: str) -> None:
    picture = nasty.pixels()
    options: dict[str, Any] = {"exif": nasty.exif_block(orientation)}
    if kind == "WEBP":
        options |= {"lossless": True}
    if kind.startswith("TIFF"):
        options = {"tiffinfo": {274: orientation}}
        options |= {"compression": "tiff_deflate"} if kind == "TIFF-deflate" else {}
    if kind == "AVIF":
        options |= {"quality": 100, "subsampling": "4:4:4"}
    elif kind == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    photograph = taken(nasty.encoded(picture, kind.partition("-")[0], **options))
    assert far(shown(photograph), TURNED[orientation](picture)) < (4 if kind in ("JPEG", "AVIF") else 0.01)
    assert ("rotated" in photograph.notes) == (orientation > 1)
    with Image.open(io.BytesIO(photograph.data)) as image:
        assert not image.getexif()


def test_16_bits_are_scaled_and_not_clipped() -> None:
    picture = nasty.pixels()
    deep = picture.astype(np.uint16) * 256 + 37
    for data in (nasty.encoded(deep[..., 1].copy(), "PNG"), nasty.encoded(deep[..., 1].copy(), "TIFF")):
        assert far(shown(taken(data))[..., 0], picture[..., 1]) == 0
    big = nasty.encoded(Image.frombytes("I;16B", (64, 48), deep[..., 1].astype(">u2").tobytes()), "TIFF")
    assert far(shown(taken(big))[..., 0], picture[..., 1]) == 0
    assert far(shown(taken(nasty.png(deep.astype(">u2"), depth=16))), picture) == 0
    opaque = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)]).astype(">u2")
    assert far(shown(taken(nasty.png(opaque, depth=16, colour=6))), picture) == 0


def test_floats_are_scaled() -> None:
    grey = nasty.pixels()[..., 0]
    for top in (1.0, 255.0):
        data = nasty.encoded((grey / 255 * top).astype(np.float32), "TIFF")
        assert far(shown(taken(data))[..., 0], grey) < 0.01


def test_wide_gamut_is_converted() -> None:
    picture = nasty.pixels()
    linear = np.where(picture <= 10, picture / 255 / 12.92, ((picture / 255 + 0.055) / 1.055) ** 2.4)
    srgb = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]).T
    wide = np.array(list(nasty.P3_COLORANTS.values())).T
    light = np.clip(linear @ (np.linalg.inv(srgb) @ wide).T, 0, 1)
    expected = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    photograph = taken(nasty.encoded(picture, "PNG", icc_profile=nasty.wide_profile()))
    assert far(shown(photograph), expected) < 1
    assert far(expected, picture) > 5  # the profile matters
    from_jpeg = taken(nasty.encoded(picture, "JPEG", quality=100, subsampling=0, icc_profile=nasty.wide_profile()))
    assert far(shown(from_jpeg), expected) < 3


def test_profiles_that_do_not_fit_are_ignored() -> None:
    for profile in (nasty.linear_grey_profile(), nasty.ink_profile(), nasty.wide_profile()[:300]):
        assert taken(nasty.jpeg(icc_profile=profile)).notes == ("icc-ignored",)


def test_grey_profiles() -> None:
    grey = nasty.pixels()[..., 0].copy()
    photograph = taken(nasty.encoded(grey, "PNG", icc_profile=nasty.linear_grey_profile()))
    light = grey / 255
    expected = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert far(shown(photograph)[..., 1], expected) < 1
    assert taken(nasty.encoded(grey, "JPEG", icc_profile=nasty.srgb_profile())).notes == ()


def test_alpha_is_laid_on_white() -> None:
    picture = nasty.pixels()
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, 32:] = 0
    alpha[:, 40:48] = 128
    share = alpha[..., None] / 255
    expected = picture * share + 255 * (1 - share)
    rgba = np.dstack([picture, alpha])
    assert far(shown(taken(nasty.encoded(rgba, "PNG"))), expected) < 0.6
    assert far(shown(taken(nasty.encoded(rgba, "WEBP", lossless=True, exact=True))), expected) < 0.6
    assert far(shown(taken(nasty.encoded(rgba[..., 2:].copy(), "PNG"))), expected[..., [2, 2, 2]]) < 0.6


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey(depth: int) -> None:
    top = (1 << depth) - 1
    rng = np.random.default_rng(0)
    raw = rng.integers(0, top + 1, (32, 32))
    key = 1 if depth == 1 else top // 3
    raw[:4] = key
    if depth == 16:
        rows = raw.astype(">u2")
    elif depth == 8:
        rows = raw.astype(np.uint8)
    else:
        bits = (raw[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(32, -1).astype(np.uint8), axis=1)
    trns = nasty.chunk(b"tRNS", struct.pack(">H", key))
    made = nasty.png(rows, depth, 0, [trns])
    header = nasty.png_header(32, 32, depth, 0)
    photograph = taken(header + made[len(header) :])
    expected = np.where(raw == key, 255, raw >> 8 if depth == 16 else raw * 255 // top)
    assert far(shown(photograph)[..., 0], expected) == 0
    assert "alpha-on-white" in photograph.notes


def test_printing_colours() -> None:
    picture = nasty.pixels()
    inks = Image.fromarray(picture).convert("CMYK")
    photograph = taken(nasty.encoded(inks, "JPEG", quality=100, subsampling=0))
    assert far(shown(photograph), picture) < 4
    with_profile = taken(nasty.encoded(inks, "JPEG", quality=100, subsampling=0, icc_profile=nasty.ink_profile()))
    assert np.ptp(shown(with_profile), axis=-1).mean() < 4  # that profile knows no hues


def test_gamma_is_told() -> None:
    data = nasty.encoded(nasty.pixels(), "PNG")
    linear = nasty.chunk(b"gAMA", struct.pack(">I", 100000))
    usual = nasty.chunk(b"gAMA", struct.pack(">I", 45455))
    assert "colour-tag-ignored" in taken(nasty.with_chunks(data, linear)).notes
    assert taken(nasty.with_chunks(data, usual)).notes == ("re-encoded",)


def test_other_formats_are_stored_losslessly() -> None:
    picture = nasty.pixels()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})):
        photograph = taken(nasty.encoded(picture, kind, **options))
        assert photograph.format == "webp"
        assert far(shown(photograph), picture) == 0
    long = nasty.pixels(0, 16, 17000)
    photograph = taken(nasty.encoded(long, "PNG"), limits=Limits(max_aspect=2000))
    assert photograph.format == "png"
    assert far(shown(photograph), long) == 0


def test_perceptual_hash_of_near_duplicates() -> None:
    def distance(one: int, other: int) -> int:
        return (one ^ other).bit_count()

    big = nasty.pixels(3, 320, 240)
    first = taken(nasty.encoded(big, "PNG")).perceptual_hash
    assert 0 <= first < 1 << 64
    again = Image.fromarray(big).resize((160, 120), Image.Resampling.LANCZOS)
    assert distance(first, taken(nasty.encoded(again, "JPEG", quality=70)).perceptual_hash) <= 3
    turned = nasty.encoded(np.rot90(big).copy(), "PNG", exif=nasty.exif_block(6))
    assert taken(turned).perceptual_hash == first
    assert distance(first, taken(nasty.encoded(nasty.pixels(90, 320, 240), "PNG")).perceptual_hash) > 3


# the lossless way ---------------------------------------------------------------------------------------------


def jpeg_kinds() -> dict[str, bytes]:
    picture = nasty.pixels(1, 67, 51)
    grey = picture[..., 0].copy()
    kinds = {
        "444": nasty.encoded(picture, "JPEG", subsampling=0),
        "422": nasty.encoded(picture, "JPEG", subsampling=1),
        "420": nasty.encoded(picture, "JPEG", subsampling=2),
        "grey": nasty.encoded(grey, "JPEG"),
        "progressive": nasty.encoded(picture, "JPEG", progressive=True),
        "grey-progressive": nasty.encoded(grey, "JPEG", progressive=True),
        "restarts": nasty.encoded(picture, "JPEG", restart_marker_blocks=2),
        "optimised": nasty.encoded(picture, "JPEG", optimize=True),
        "rgb": nasty.encoded(picture, "JPEG", keep_rgb=True, subsampling=0),
        "low": nasty.encoded(picture, "JPEG", quality=1),
    }
    jfif = kinds["420"].index(b"\xff\xe0")
    kinds["no-jfif"] = kinds["420"][:jfif] + kinds["420"][jfif + 18 :]
    adobe = nasty.segment(0xEE, b"Adobe\0\x64\x80\x01\x40\x02\x01")
    kinds["adobe"] = nasty.with_segments(kinds["no-jfif"], adobe)
    return kinds


@pytest.mark.parametrize("kind", jpeg_kinds())
def test_a_plain_jpeg_keeps_its_pixels_to_the_bit(kind: str) -> None:
    data = jpeg_kinds()[kind]
    extra = [
        nasty.segment(0xE1, nasty.exif_block(1, description=b"canary")),
        nasty.segment(0xE2, b"ICC_PROFILE\0\x01\x01" + nasty.srgb_profile()),
        nasty.segment(0xED, b"Photoshop 3.0\0canary"),
        nasty.segment(0xFE, b"canary"),
    ]
    tagged = nasty.with_segments(data, *extra) + b"canary"
    photograph = taken(tagged)
    assert photograph.format == "jpg"
    assert "re-encoded" not in photograph.notes
    assert far(shown(photograph), decoded(tagged)) == 0
    assert far(shown(photograph), decoded(data)) == 0
    assert b"canary" not in photograph.data
    assert taken(photograph.data).data == photograph.data  # nothing left to take away


def test_a_jpeg_that_changes_is_saved_at_full_colour() -> None:
    photograph = taken(nasty.jpeg(exif=nasty.exif_block(6)))
    with Image.open(io.BytesIO(photograph.data)) as image:
        assert image.format == "JPEG"
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


# privacy ------------------------------------------------------------------------------------------------------

CANARY = b"CANARY-4b1d-48.2082N-16.3738E"


def tagged_inputs() -> dict[str, bytes]:
    """Photographs that carry a canary where cameras, phones and editors put what they know."""
    seg, with_segments, plain = nasty.segment, nasty.with_segments, nasty.jpeg()
    exif = nasty.exif_block(1, description=CANARY, artist=CANARY, gps=CANARY)
    turned = nasty.exif_block(6, description=CANARY, gps=CANARY)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + CANARY + b"</x:xmpmeta>"
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x22\x1c\x02\x78\0\x1d" + CANARY
    profile = nasty.wide_profile() + CANARY
    own_srgb = nasty.srgb_profile() + CANARY
    scan = plain.index(b"\xff\xda")
    progressive = nasty.jpeg(progressive=True)
    second = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 4)
    jfif = plain.index(b"\xff\xe0")
    thumbnail = CANARY + CANARY[:1]
    with_thumbnail = b"\xff\xd8" + seg(0xE0, b"JFIF\0\x01\x02\0\0\x01\0\x01\x05\x02" + thumbnail) + plain[jfif + 18 :]
    inks = nasty.encoded(Image.fromarray(nasty.pixels()).convert("CMYK"), "JPEG")
    png = nasty.encoded(nasty.pixels(), "PNG")
    webp = nasty.encoded(nasty.pixels(), "WEBP", lossless=True)
    chunk, with_chunks, webp_with = nasty.chunk, nasty.with_chunks, nasty.webp_with
    deflate = zlib.compress
    return {
        "jpeg-exif": with_segments(plain, seg(0xE1, exif)),
        "jpeg-xmp": with_segments(plain, seg(0xE1, xmp)),
        "jpeg-extended-xmp": with_segments(plain, seg(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + CANARY)),
        "jpeg-iptc": with_segments(plain, seg(0xED, iptc)),
        "jpeg-comment": with_segments(plain, seg(0xFE, CANARY)),
        "jpeg-comment-late": plain[:scan] + seg(0xFE, CANARY) + plain[scan:],
        "jpeg-comment-between-scans": progressive[:second] + seg(0xFE, CANARY) + progressive[second:],
        "jpeg-thumbnail": with_thumbnail,
        "jpeg-thumbnail-extension": with_segments(plain, seg(0xE0, b"JFXX\0\x13" + CANARY)),
        "jpeg-adobe": with_segments(plain, seg(0xEE, b"Adobe\0\x64\0\0\0\0\x01" + CANARY)),
        "jpeg-maker": with_segments(plain, *(seg(0xE0 + n, CANARY) for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12))),
        "jpeg-app15": with_segments(plain, seg(0xEF, CANARY)),
        "jpeg-reserved": with_segments(plain, seg(0xF0, CANARY), seg(0x42, CANARY)),
        "jpeg-icc-srgb": nasty.jpeg(icc_profile=own_srgb),
        "jpeg-icc-broken": nasty.jpeg(icc_profile=CANARY * 9),
        "jpeg-between-segments": plain[: jfif + 18] + CANARY + plain[jfif + 18 :],
        "jpeg-trailing": plain + CANARY,
        "jpeg-second-picture": nasty.frames("MPO", 2, comment=CANARY) + CANARY,
        "jpeg-turned-all": with_segments(plain, seg(0xE1, turned), seg(0xE1, xmp), seg(0xFE, CANARY), seg(0xED, iptc)),
        "jpeg-wide-all": with_segments(nasty.jpeg(icc_profile=profile), seg(0xFE, CANARY), seg(0xE1, exif)),
        "jpeg-inks-all": with_segments(inks, seg(0xFE, CANARY), seg(0xE1, exif), seg(0xE1, xmp)),
        "png-text": with_chunks(png, chunk(b"tEXt", b"Comment\0" + CANARY)),
        "png-ztxt": with_chunks(png, chunk(b"zTXt", b"Comment\0\0" + deflate(CANARY, 0))),
        "png-itxt": with_chunks(png, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + CANARY)),
        "png-exif": with_chunks(png, chunk(b"eXIf", exif[6:])),
        "png-exif-turned": with_chunks(png, chunk(b"eXIf", turned[6:])),
        "png-profile": with_chunks(png, chunk(b"iCCP", b"a\0\0" + deflate(profile, 0))),
        "png-private": with_chunks(png, chunk(b"caNy", CANARY)),
        "png-trailing": png + CANARY,
        "webp-exif": webp_with(webp, (b"EXIF", exif)),
        "webp-xmp": webp_with(webp, (b"XMP ", CANARY)),
        "webp-profile": webp_with(webp, (b"ICCP", profile)),
        "webp-unknown": webp_with(webp, (b"CaNy", CANARY)) + CANARY,
        "tiff-tags": nasty.encoded(
            nasty.pixels(), "TIFF", tiffinfo={270: CANARY.decode(), 315: CANARY.decode(), 700: CANARY, 33723: CANARY}
        ),
        "gif-comment": nasty.encoded(nasty.pixels(), "GIF", comment=CANARY),
        "avif-exif-xmp": nasty.encoded(nasty.pixels(), "AVIF", exif=exif, xmp=CANARY),
        "bmp-trailing": nasty.encoded(nasty.pixels(), "BMP") + CANARY,
    }


def test_thirty_inputs_are_tagged() -> None:
    assert len(tagged_inputs()) >= 30
    for name, data in tagged_inputs().items():
        assert CANARY in data, name


@pytest.mark.parametrize("name", tagged_inputs())
def test_no_canary_comes_through(name: str) -> None:
    photograph = taken(tagged_inputs()[name])
    shown(photograph)
    for piece in (CANARY, CANARY[:11], CANARY[-11:]):
        assert piece not in photograph.data
    # and by structure: nothing but what pixels are made of
    if photograph.format == "webp":
        assert photograph.data[12:16] == b"VP8L"
        assert len(photograph.data) == 20 + (struct.unpack("<I", photograph.data[16:20])[0] + 1) // 2 * 2
    else:
        head = photograph.data[: photograph.data.index(b"\xff\xda")]
        markers = set(re.findall(rb"\xff[\xe0-\xef\xfe]", head))
        assert markers <= {b"\xff\xe0", b"\xff\xee"}
        assert photograph.data.endswith(b"\xff\xd9")


def test_large_pictures_go_to_png_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_LARGEST_WEBP", 1000)
    for name, data in tagged_inputs().items():
        photograph = taken(data)
        shown(photograph)
        assert CANARY not in photograph.data
        if photograph.format != "jpg":
            kinds = re.findall(rb"(IHDR|IDAT|IEND|[a-zA-Z]{4})", photograph.data[12:16] + photograph.data[-8:-4])
            assert (photograph.format, kinds) == ("png", [b"IHDR", b"IEND"]), name
            with Image.open(io.BytesIO(photograph.data)) as image:
                image.load()
                assert image.info == {}


# reading ------------------------------------------------------------------------------------------------------


def test_read_file_in_the_nasty_folder(tmp_path: Path) -> None:
    root = tmp_path / "in"
    expected = nasty.make_nasty_folder(root)
    for relative, expectation in expected.items():
        data = read_file(root, relative, Limits())
        if isinstance(data, bytes):
            result = normalise_photograph(data, Ingest())
            if expectation.status == "quarantined":
                assert isinstance(result, Fault), relative
                assert result.code == expectation.code
            elif expectation.status in ("accepted", "alias"):
                assert isinstance(result, Photograph), (relative, result)
                assert set(result.notes) == expectation.notes if expectation.status == "accepted" else True
        else:
            assert expectation == nasty.quarantined(data.code), (relative, data)
    assert len(expected) > 50


def test_read_file_below_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").write_bytes(nasty.jpeg())
    (tmp_path / "in" / "link").symlink_to("../out")
    for relative in ("link/a.jpg", "../out/a.jpg", "/etc/passwd", "C:\\a.jpg", ""):
        result = read_file(tmp_path / "in", relative, Limits())
        assert isinstance(result, Fault), relative
        assert result.code in ("E101", "E107")


def test_read_file_gone_and_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    assert read_file(tmp_path, "x.jpg", Limits()) == Fault("E101", "Invalid argument")
    gone = read_file(tmp_path, "gone.jpg", Limits())
    assert isinstance(gone, Fault)
    assert gone.code == "E104"


def test_read_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(policy, "open_below", denied)
    result = read_file(tmp_path, "a.jpg", Limits())
    assert isinstance(result, Fault)
    assert result.code == "E106"


def test_read_file_on_a_failing_disk_is_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(policy, "open_below", failing)
    with pytest.raises(EnvironmentFault):
        read_file(tmp_path, "a.jpg", Limits())


@pytest.mark.parametrize("change", ["grown", "touched"])
def test_read_file_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(nasty.jpeg())
    honest = os.fdopen

    def meddling(descriptor: int, mode: str) -> Any:
        file = honest(descriptor, mode)
        read = file.read

        class Meddler:
            def __enter__(self) -> Meddler:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def read(self, size: int) -> bytes:
                data: bytes = read(size)
                if change == "grown":
                    with path.open("ab") as other:
                        other.write(b"more")
                else:
                    os.utime(path, ns=(1, 1))
                return data

        return Meddler()

    monkeypatch.setattr(os, "fdopen", meddling)
    result = read_file(tmp_path, "a.jpg", Limits())
    assert isinstance(result, Fault)
    assert result.code == "E104"


def test_read_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    result = read_file(tmp_path, "a.jpg", Limits(max_bytes=1000))
    assert isinstance(result, Fault)
    assert result.code == "E103"
    assert read_file(tmp_path, "a.jpg", Limits(max_bytes=1001)) == bytes(1001)


# time ---------------------------------------------------------------------------------------------------------


def test_a_512_pixel_jpeg_is_cheap() -> None:
    data = nasty.encoded(nasty.pixels(0, 512, 512), "JPEG", quality=92)
    settings = Ingest()
    best = 1.0
    for _ in range(15):
        began = time.process_time()
        normalise_photograph(data, settings)
        best = min(best, time.process_time() - began)
    print(f"512 px JPEG of {len(data):,} bytes: {best * 1000:.1f} ms CPU")
    assert best <= 0.012
