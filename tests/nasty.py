"""Nasty inputs, made in code from small synthetic pictures, each with what must become of it.

`photograph_cases` and `mask_cases` are files; `make_nasty_folder` is a folder of subjects full of traps. Nothing
here needs more than a few megabytes: what is huge is huge in its header or when inflated.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.uint8]

MPF_NOTE = "multi-picture"


@dataclass(frozen=True)
class Expectation:
    """What must become of a file: a ledger status, the code of a quarantine, the notes of an acceptance."""

    status: str
    """accepted, alias, ignored, quarantined; or either: a damage that may or may not be visible."""
    code: str = ""
    notes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """One nasty file."""

    name: str
    data: bytes
    expected: Expectation


def accepted(*notes: str) -> Expectation:
    """Accepted with exactly these notes."""
    return Expectation("accepted", notes=frozenset(notes))


def quarantined(code: str) -> Expectation:
    """Quarantined with this code."""
    return Expectation("quarantined", code)


# pictures ---------------------------------------------------------------------------------------------------


def pixels(seed: int = 0, width: int = 64, height: int = 48) -> Pixels:
    """A picture without any symmetry: smooth, with some grain and a red corner at the top left."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 3 + seed * 7, y * 4, (x + y) * 2 + 30], -1) % 256
    picture = np.clip(picture + rng.integers(-6, 7, picture.shape), 0, 255).astype(np.uint8)
    picture[: height // 4, : width // 4] = (220, 20, 30)
    return picture


def encoded(image: Image.Image | npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    """A picture as a file of a format."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, **options: Any) -> bytes:
    """A small JPEG."""
    return encoded(pixels(seed), "JPEG", **{"quality": 90, **options})


def exif_block(orientation: int | None = None, **text: bytes) -> bytes:
    """An EXIF block by hand, with an orientation, a description, an artist and a position as wanted."""
    entries: list[tuple[int, int, int, bytes]] = []
    if "description" in text:
        entries.append((0x010E, 2, len(text["description"]), text["description"]))
    if orientation is not None:
        entries.append((0x0112, 3, 1, struct.pack("<HH", orientation, 0)))
    if "artist" in text:
        entries.append((0x013B, 2, len(text["artist"]), text["artist"]))
    if "gps" in text:
        entries.append((0x8825, 4, 1, b""))
    start = 8
    size = 2 + 12 * len(entries) + 4
    body, extra = b"", b""
    for tag, kind, count, value in entries:
        if tag == 0x8825:
            gps = text["gps"]
            value = struct.pack("<I", start + size + len(extra))
            inner = struct.pack("<HHHI", 1, 0x001D, 2, len(gps)) + struct.pack("<I", start + size + len(extra) + 18)
            extra += inner + struct.pack("<I", 0) + gps
        elif len(value) > 4:
            extra, value = extra + value, struct.pack("<I", start + size + len(extra))
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", start, len(entries)) + body + struct.pack("<I", 0) + extra


def segment(marker: int, body: bytes) -> bytes:
    """One JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments after its start."""
    return data[:2] + b"".join(segments) + data[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """Signature and header chunk of a PNG."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(values: npt.NDArray[Any], depth: int = 8, colour: int = 2, chunks: Iterable[bytes] = ()) -> bytes:
    """A PNG by hand; `values` are bytes or big-endian 16-bit numbers of one row each."""
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = png_header(values.shape[1], values.shape[0], depth, colour)
    return head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks after its header chunk."""
    return data[:33] + b"".join(chunks) + data[33:]


def zlib_zeros(megabytes: int) -> bytes:
    """A zlib stream that inflates to so many megabytes, made of one block repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = ((megabytes << 20) % 65521) << 16 | 1
    return b"\x78\xda" + block * megabytes + b"\x03\x00" + struct.pack(">I", adler)


def webp_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A simple lossless WebP made an extended one with more chunks."""
    flags = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    head = bytes([sum(flags.get(kind, 0) for kind, _ in chunks), 0, 0, 0])
    head += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")

    def piece(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)

    first = b"".join(piece(kind, body) for kind, body in chunks if kind == b"ICCP")
    rest = b"".join(piece(kind, body) for kind, body in chunks if kind != b"ICCP")
    body = b"WEBP" + piece(b"VP8X", head) + first + data[12:] + rest
    return b"RIFF" + struct.pack("<I", len(body)) + body


def srgb_profile() -> bytes:
    """A plain sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


P3_COLORANTS = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def wide_profile() -> bytes:
    """The sRGB profile with Display P3's primaries in it."""
    profile = bytearray(srgb_profile())
    (count,) = struct.unpack_from(">I", profile, 128)
    for entry in range(132, 132 + 12 * count, 12):
        tag, offset, _ = struct.unpack_from(">4sII", profile, entry)
        if tag in P3_COLORANTS:
            struct.pack_into(">3i", profile, offset + 8, *(round(v * 65536) for v in P3_COLORANTS[tag]))
    return bytes(profile)


def made_profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """A version 2 profile from its tags."""
    tags = {b"desc": b"desc" + struct.pack(">II", 0, 2) + b"x\0" + bytes(78), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02100000, kind, space, pcs)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + body


def linear_grey_profile() -> bytes:
    """A grey profile of gamma 1, under which a middle grey is far lighter than in sRGB."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return made_profile(b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)})


def ink_profile() -> bytes:
    """A printing profile whose every ink darkens alike."""
    curve = bytes(range(256))
    corners = b"".join(bytes((max(0, 255 - 60 * bin(corner).count("1")), 128, 128)) for corner in range(16))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + curve * 4 + corners + curve * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return made_profile(b"CMYK", b"Lab ", {b"wtpt": white, b"A2B0": table, b"A2B1": table}, kind=b"prtr")


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG that says nothing in very many scans, each over all blocks."""
    blocks = -(-width // 8) * -(-height // 8)
    power = min(14, blocks.bit_length() - 1)  # a code for runs of 2^power empty blocks and more

    def coded(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def table(kind: int, symbol: int) -> bytes:
        return segment(0xC4, bytes([kind, 1]) + bytes(15) + bytes([symbol]))

    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\x10" * 64)
    head += segment(0xC2, struct.pack(">BHHB3B", 8, height, width, 1, 1, 0x11, 0))
    head += table(0x00, 0) + table(0x10, power << 4)
    first = segment(0xDA, bytes((1, 1, 0x00, 0, 0, 0))) + bytes(blocks // 8) + coded("0" * (blocks % 8 + 8))[:1]
    runs, left = "", blocks
    while left:
        run = min(left, (2 << power) - 1)
        if 0 < left - run < 1 << power:  # leave enough for one more run
            run = 1 << power
        runs += "0" + format(run - (1 << power), f"0{power}b") * bool(power)
        left -= run
    empty = segment(0xDA, bytes((1, 1, 0x00, 1, 63, 0))) + coded(runs)
    return head + first + empty * scans + b"\xff\xd9"


def tiff(tags: dict[int, tuple[int, list[int]]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory with short lists of numbers."""
    start = 8 + 2 + 12 * len(tags) + 4
    body = b""
    for tag, (kind, values) in sorted(tags.items()):
        value = b"".join(struct.pack("<H" if kind == 3 else "<I", v) for v in values)
        if len(value) > 4:
            value, tail = struct.pack("<I", start + len(tail)), tail + value
        body += struct.pack("<HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", 0) + tail


def frames(kind: str, count: int = 3, **options: Any) -> bytes:
    """An animation, or a file of several pages."""
    images = [Image.fromarray(pixels(seed)) for seed in range(count)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **options)


HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found <script>alert(1)</script></body></html>\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 1234567\n"
APPLE_DOUBLE = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(100)


def damaged(data: bytes, position: int, mask: int = 0x10) -> bytes:
    """The bytes with some bits of one flipped."""
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def photograph_cases() -> Iterator[Case]:
    """All cases of the table of nasty images, row by row, and some more."""

    def case(name: str, data: bytes, expected: Expectation) -> Case:
        return Case(name, data, expected)

    picture = pixels()
    plain = jpeg()
    progressive = jpeg(progressive=True)
    lossless = encoded(picture, "PNG")
    webp = encoded(picture, "WEBP", lossless=True)
    lossy = encoded(picture, "WEBP", quality=80)
    done = ("re-encoded",)

    # 1: cut JPEG
    yield case("jpeg-cut-half", plain[: len(plain) // 2], quarantined("E130"))
    yield case("jpeg-cut-16", plain[:-16], quarantined("E130"))
    yield case("jpeg-cut-end-marker", plain[:-2], quarantined("E130"))
    yield case("jpeg-cut-in-header", plain[:100], quarantined("E130"))
    yield case("jpeg-progressive-cut", progressive[: len(progressive) * 2 // 3], quarantined("E130"))
    # 2: cut PNG
    yield case("png-cut-half", lossless[: len(lossless) // 2], quarantined("E131"))
    yield case("png-cut-16", lossless[:-16], quarantined("E131"))
    yield case("png-cut-end-chunk", lossless[:-12], quarantined("E131"))
    # 3: cut WebP and the others
    yield case("webp-cut", webp[: len(webp) // 2], quarantined("E130"))
    yield case("webp-lossy-cut", lossy[:-20], quarantined("E130"))
    gif, bmp = encoded(picture, "GIF"), encoded(picture, "BMP")
    yield case("gif-cut", gif[: len(gif) * 2 // 3], quarantined("E130"))
    yield case("bmp-cut", bmp[: len(bmp) * 2 // 3], quarantined("E130"))
    yield case("tiff-cut", encoded(picture, "TIFF")[:-2000], quarantined("E130"))
    deflated = encoded(picture, "TIFF", compression="tiff_deflate")
    yield case("tiff-deflate-cut", deflated[: len(deflated) // 2], quarantined("E130"))
    # 4: no picture at all
    yield case("empty", b"", quarantined("E102"))
    yield case("html", HTML, quarantined("E110"))
    yield case("lfs-pointer", LFS, quarantined("E105"))
    yield case("apple-double", APPLE_DOUBLE, quarantined("E110"))
    yield case("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), quarantined("E111"))
    yield case("svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', quarantined("E110"))
    yield case("zeros", bytes(4096), quarantined("E110"))
    yield case("noise", np.random.default_rng(1).bytes(4096), quarantined("E110"))
    # 5: the name lies
    yield case("png-named.jpg", lossless, accepted(*done))
    # 6: orientation
    for orientation in (3, 5, 6, 8):
        data = jpeg(exif=exif_block(orientation))
        yield case(f"jpeg-orientation-{orientation}", data, accepted("rotated", *done))
    turned = encoded(picture, "PNG", exif=exif_block(6))
    yield case("png-orientation-6", turned, accepted("rotated", *done))
    # 7: odd EXIF
    yield case("exif-orientation-99", jpeg(exif=exif_block(99)), accepted("bad-orientation"))
    garbage = segment(0xE1, b"Exif\0\0" + b"\x07" * 64)
    yield case("exif-garbage", with_segments(plain, garbage), accepted("bad-exif"))
    # 8: printing colours
    inks = Image.fromarray(picture).convert("CMYK")
    cmyk = encoded(inks, "JPEG", quality=90)
    yield case("jpeg-cmyk", cmyk, accepted("cmyk", *done))
    with_inks = encoded(inks, "JPEG", quality=90, icc_profile=ink_profile())
    yield case("jpeg-cmyk-icc", with_inks, accepted("cmyk", "icc-to-srgb", *done))
    yield case("tiff-cmyk", encoded(inks, "TIFF"), accepted("cmyk", *done))
    # 9, 10: 16 bits
    deep = picture[..., 1].astype(np.uint16) * 257
    yield case("png-grey-16", encoded(deep, "PNG"), accepted("depth", *done))
    yield case("tiff-grey-16", encoded(deep, "TIFF"), accepted("depth", *done))
    rgb16 = png((picture.astype(np.uint16) * 257).astype(">u2"), depth=16)
    yield case("png-rgb-16", rgb16, accepted("depth", *done))
    # 11: alpha
    hidden = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    hidden[:, 32:, 3] = 0
    yield case("png-rgba-hidden", encoded(hidden, "PNG"), accepted("alpha-on-white", *done))
    yield case("png-la", encoded(hidden[..., 2:].copy(), "PNG"), accepted("alpha-on-white", *done))
    webp_alpha = encoded(hidden, "WEBP", lossless=True, exact=True)
    yield case("webp-alpha", webp_alpha, accepted("alpha-on-white", *done))
    palette = Image.fromarray(picture).quantize(16)
    first = palette.getpixel((0, 0))
    yield case("png-palette-trns", encoded(palette, "PNG", transparency=first), accepted("alpha-on-white", *done))
    yield case("gif-transparent", encoded(palette, "GIF", transparency=first), accepted("alpha-on-white", *done))
    key = chunk(b"tRNS", struct.pack(">3H", 220, 20, 30))
    yield case("png-rgb-trns", with_chunks(lossless, key), accepted("alpha-on-white", *done))
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    yield case("png-rgba-opaque", encoded(opaque, "PNG"), accepted(*done))
    # 12: several frames
    yield case("gif-animated", frames("GIF"), quarantined("E140"))
    yield case("webp-animated", frames("WEBP"), quarantined("E140"))
    yield case("png-animated", frames("PNG"), quarantined("E140"))
    yield case("tiff-pages", frames("TIFF"), quarantined("E140"))
    yield case("phone-mpo", frames("MPO", 2), accepted("trailing-bytes", MPF_NOTE))
    # 13: profiles
    yield case("icc-wide", jpeg(icc_profile=wide_profile()), accepted("icc-to-srgb", *done))
    wide_png = encoded(picture, "PNG", icc_profile=wide_profile())
    yield case("icc-wide-png", wide_png, accepted("icc-to-srgb", *done))
    yield case("icc-srgb", jpeg(icc_profile=srgb_profile()), accepted())
    yield case("icc-broken", jpeg(icc_profile=b"no profile" * 20), accepted("icc-ignored"))
    grey_linear = encoded(picture[..., 0].copy(), "JPEG", icc_profile=linear_grey_profile())
    yield case("icc-grey", grey_linear, accepted("icc-to-srgb", *done))
    # 14: floats
    floats = (picture[..., 0] / 255).astype(np.float32)
    yield case("tiff-float", encoded(floats, "TIFF"), accepted("float", *done))
    floats[3, 4] = np.nan
    yield case("tiff-float-nan", encoded(floats, "TIFF"), quarantined("E150"))
    # integers whose range is anybody's guess
    yield case("tiff-int-32", encoded(deep.astype(np.int32) * 999, "TIFF"), quarantined("E199"))
    # 15, 16: huge by header
    blank = chunk(b"IDAT", zlib_zeros(162)) + chunk(b"IEND", b"")
    yield case("png-169mp", png_header(13000, 13000, colour=0) + blank, quarantined("E120"))
    yield case("png-900mp-1bit", png_header(30000, 30000, 1, 0) + blank, quarantined("E120"))
    yield case("png-60000", png_header(60000, 60000) + blank, quarantined("E120"))
    frame = plain.index(b"\xff\xc0") + 5
    yield case("jpeg-65500", plain[:frame] + b"\xff\xdc\xff\xdc" + plain[frame + 4 :], quarantined("E120"))
    yield case("gif-65535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], quarantined("E120"))
    yield case("bmp-60000", bmp[:18] + struct.pack("<ii", 60000, 60000) + bmp[26:], quarantined("E120"))
    large = (
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\0\xfe\x3f\0" + b"VP8L" + struct.pack("<I", 4) + bytes(4)
    )
    yield case("webp-16383", b"RIFF" + struct.pack("<I", len(large) + 4) + b"WEBP" + large, quarantined("E120"))
    wide = tiff({256: (4, [60000]), 257: (4, [60000]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [8])})
    yield case("tiff-60000", wide, quarantined("E120"))
    yield case("ppm-50000", b"P6 50000 50000 255\n" + bytes(64), quarantined("E110"))
    # 17: too few bytes for the size
    lean = many_scans(64, 64, 1)
    frame = lean.index(b"\xff\xc2") + 5
    for side, code in ((9400, "E120"), (6000, "E124")):
        padded = lean[:frame] + struct.pack(">HH", side, side) + lean[frame + 4 : -2] + bytes(1500) + b"\xff\xd9"
        yield case(f"jpeg-{side}-in-2kb", padded, quarantined(code))
    yield case(
        "png-36mp-in-6kb",
        png_header(6000, 6000) + chunk(b"IDAT", zlib_zeros(1)) + chunk(b"IEND", b""),
        quarantined("E124"),
    )
    # 18: very many scans
    yield case("jpeg-3000-scans", many_scans(9400, 9400, 3000), quarantined("E121"))
    # 19: text and profile bombs
    bomb = zlib_zeros(300)
    yield case("png-ztxt-bomb", with_chunks(lossless, chunk(b"zTXt", b"a\0\0" + bomb)), accepted(*done))
    text = chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)
    yield case("png-itxt-bomb", with_chunks(lossless, text), accepted(*done))
    profile_bomb = with_chunks(lossless, chunk(b"iCCP", b"a\0\0" + bomb))
    yield case("png-iccp-bomb", profile_bomb, accepted("icc-ignored", *done))
    # 20: damaged PNG
    middle = lossless.index(b"IDAT") + 400
    yield case("png-flipped-bit", damaged(lossless, middle), quarantined("E131"))
    yield case("png-bad-crc", damaged(lossless, 29), quarantined("E131"))
    yield case("png-text-bad-crc", damaged(with_chunks(lossless, chunk(b"tEXt", b"a\0b")), 46), quarantined("E131"))
    mended = damaged(lossless, middle)
    start = mended.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", mended[start - 8 : start - 4])
    mended = mended[: start - 8] + chunk(b"IDAT", mended[start : start + length]) + chunk(b"IEND", b"")
    yield case("png-broken-deflate", mended, Expectation("either"))
    # 21: a flipped bit that nothing protects
    yield case("jpeg-flipped-bit", damaged(plain, len(plain) * 2 // 3), Expectation("either"))
    yield case("webp-flipped-bit", damaged(lossy, len(lossy) * 2 // 3), Expectation("either"))
    # 22: PostScript
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/canary) (r) file\n"
    yield case("eps-named.png", eps, quarantined("E110"))
    # 23: more than a picture
    yield case("jpeg-html-tail", plain + HTML, accepted("trailing-bytes"))
    yield case(
        "jpeg-zip-tail", plain + b"PK\x03\x04" + bytes(60) + b"PK\x05\x06" + bytes(18), accepted("trailing-bytes")
    )
    yield case("png-html-tail", lossless + HTML, accepted("trailing-bytes", *done))
    # 24: small and long
    yield case("1x1", encoded(pixels(0, 1, 1), "PNG"), quarantined("E122"))
    yield case("1x20000", encoded(pixels(0, 1, 20000), "PNG"), quarantined("E122"))
    yield case("16x2000", encoded(pixels(0, 16, 2000), "PNG"), quarantined("E123"))
    yield case(
        "jpeg-no-height",
        plain[: plain.index(b"\xff\xc0") + 5] + b"\0\0" + plain[plain.index(b"\xff\xc0") + 7 :],
        quarantined("E122"),
    )
    # 25: nothing to see
    yield case("black", encoded(np.zeros((48, 64, 3), np.uint8), "PNG"), quarantined("E160"))
    clear = hidden.copy()
    clear[..., 3] = 0
    yield case("all-transparent", encoded(clear, "PNG"), quarantined("E160"))
    # 26: AVIF
    avif = encoded(picture, "AVIF", quality=90)
    yield case("avif", avif, accepted(*done))
    yield case("avif-cut", avif[: len(avif) * 2 // 3], quarantined("E130"))
    yield case("mp4", b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + bytes(200), quarantined("E110"))
    # camera raw is TIFF inside, with a thumbnail for a first page
    yield case(
        "camera-raw", tiff({254: (4, [1]), 256: (4, [160]), 257: (4, [120]), 330: (4, [8])}), quarantined("E110")
    )
    channels = tiff({256: (4, [64]), 257: (4, [48]), 258: (3, [8]), 273: (4, [8]), 277: (3, [2048])})
    yield case("tiff-2048-channels", channels, quarantined("E199"))
    looped = bytearray(tiff({256: (4, [64]), 257: (4, [48]), 273: (4, [8])}))
    struct.pack_into("<I", looped, 8 + 2 + 36, 8)
    yield case("tiff-loop", bytes(looped), quarantined("E130"))


def mask_pixels(width: int = 64, height: int = 48) -> npt.NDArray[np.bool_]:
    """A subject somewhere off the middle."""
    mask = np.zeros((height, width), bool)
    mask[10:30, 12:40] = True
    mask[30:34, 12:20] = True
    return mask


def mask_cases() -> Iterator[Case]:
    """Given masks for a photograph of 64x48; all that are accepted mean `mask_pixels`."""
    mask = mask_pixels()
    grey = mask.astype(np.uint8) * 255
    good = accepted()

    def paletted(colours: list[int], transparency: int | None = None) -> bytes:
        image = Image.fromarray(mask.astype(np.uint8), "L").convert("P")
        image.putdata(mask.astype(np.uint8).ravel().tolist())
        image.putpalette(colours)
        return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))

    yield Case("one-bit", encoded(mask, "PNG"), good)
    yield Case("grey-0-255", encoded(grey, "PNG"), good)
    yield Case("grey-0-1", encoded(mask.astype(np.uint8), "PNG"), good)
    yield Case("grey-100-200", encoded((mask * 100 + 100).astype(np.uint8), "PNG"), good)
    yield Case("grey-16", encoded(mask.astype(np.uint16) * 40000, "PNG"), good)
    yield Case("bmp", encoded(grey, "BMP"), good)
    yield Case("gif", encoded(grey, "GIF"), good)
    yield Case("tiff", encoded(grey, "TIFF"), good)
    yield Case("palette", paletted([0, 0, 0, 255, 255, 255]), good)
    stood_up = np.rot90(grey).copy()
    yield Case("orientation-6", encoded(stood_up, "PNG", exif=exif_block(6)), good)
    inverted = Image.fromarray(mask.astype(np.uint8), "L").convert("P")
    inverted.putdata((~mask).astype(np.uint8).ravel().tolist())
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    yield Case("palette-turned-round", encoded(inverted, "PNG"), good)
    yield Case("palette-colour", paletted([0, 0, 0, 255, 0, 0]), quarantined("E202"))
    yield Case("palette-transparent", paletted([0, 0, 0, 255, 255, 255], 0), quarantined("E202"))
    yield Case("rgb", encoded(np.dstack([grey] * 3), "PNG"), quarantined("E202"))
    yield Case("alpha-only", encoded(np.dstack([grey * 0] * 3 + [grey]), "PNG"), quarantined("E202"))
    yield Case("grey-and-alpha", encoded(np.dstack([grey, grey]), "PNG"), quarantined("E202"))
    keyed = with_chunks(encoded(grey, "PNG"), chunk(b"tRNS", b"\0\0"))
    yield Case("grey-transparent", keyed, quarantined("E202"))
    yield Case("jpeg", encoded(grey, "JPEG"), quarantined("E202"))
    soft = grey.copy()
    soft[9, 12:40] = 128
    yield Case("three-values", encoded(soft, "PNG"), quarantined("E202"))
    yield Case("webp", encoded(grey, "WEBP", lossless=True), quarantined("E202"))
    yield Case("animated", frames("GIF"), quarantined("E202"))
    yield Case("half-size", encoded(grey[::2, ::2].copy(), "PNG"), quarantined("E201"))
    yield Case("transposed", encoded(grey.T.copy(), "PNG"), quarantined("E201"))
    yield Case("one-off", encoded(grey[:, 1:].copy(), "PNG"), quarantined("E201"))
    header = png_header(60000, 60000, 1, 0)
    huge = header + chunk(b"IDAT", zlib_zeros(1)) + chunk(b"IEND", b"")
    yield Case("huge", huge, quarantined("E201"))
    yield Case("all-black", encoded(grey * 0, "PNG"), quarantined("E212"))
    yield Case("all-white", encoded(np.full_like(grey, 255), "PNG"), quarantined("E212"))
    yield Case("empty", b"", quarantined("E203"))
    yield Case("lfs-pointer", LFS, quarantined("E203"))
    yield Case("html", HTML, quarantined("E203"))
    yield Case("cut", encoded(grey, "PNG")[:-20], quarantined("E203"))
    yield Case("tiff-cut", encoded(grey, "TIFF")[:-100], quarantined("E203"))


# folders ----------------------------------------------------------------------------------------------------


def make_nasty_folder(root: Path) -> dict[str, Expectation]:
    """Subjects full of traps below `root`; what must become of each entry, by its raw path below `root`.

    Every entry that is not a plain folder is in the table. `traps/x.jpg` is a folder and `empty/` has nothing in
    it. Of the same bytes twice in a subject, the first path in order is the record; in two subjects, both are
    and the second is noted.
    """
    expected: dict[str, Expectation] = {}
    seeds = iter(range(1, 1000))

    def put(relative: str, data: bytes | None = None, expectation: Expectation | None = None) -> None:
        path = os.path.join(os.fspath(root), relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(jpeg(next(seeds)) if data is None else data)
        expected[relative] = expectation or accepted()

    put("plain/one.jpg")
    put("plain/two.jpeg")
    put("plain/no-extension")
    put("plain/trail.jpg ")
    put("plain/a.b.c.jpg")

    # what is no file; a build must neither hang on one nor follow it
    traps = root / "traps"
    traps.mkdir(parents=True)
    put("traps/good.jpg")
    os.mkfifo(traps / "fifo.jpg")
    os.mknod(traps / "socket.jpg", 0o600 | stat.S_IFSOCK)
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg(999))
    links = {
        "passwd.jpg": "/etc/passwd",
        "zero.jpg": "/dev/zero",
        "climb.jpg": f"../../{outside.name}/secret.jpg",
        "loop.jpg": "loop.jpg",
        "inside.jpg": "good.jpg",
        "dangling.jpg": "nowhere.jpg",
        "linked-folder": f"../../{outside.name}",
        "parent-folder": "..",
    }
    for name, target in links.items():
        (traps / name).symlink_to(target)
    for name in ("fifo.jpg", "socket.jpg", *links):
        expected[f"traps/{name}"] = quarantined("E101")
    (traps / "x.jpg").mkdir()
    put("traps/sparse.jpg", b"", quarantined("E103"))
    os.truncate(traps / "sparse.jpg", 40 << 30)
    put("traps/empty.jpg", b"", quarantined("E102"))
    put("traps/pointer.jpg", LFS, quarantined("E105"))
    put("traps/page.jpg", HTML, quarantined("E110"))
    put("traps/back\\slash.jpg", None, quarantined("E107"))
    if os.geteuid():
        put("traps/locked.jpg", None, quarantined("E106"))
        (traps / "locked.jpg").chmod(0)

    # what file managers and notebooks leave behind
    for name in (".hidden.jpg", "..jpg.jpg", ".ipynb_checkpoints/ok-checkpoint.jpg", "__MACOSX/ok.jpg"):
        put(f"leftovers/{name}", None, Expectation("ignored"))
    put("leftovers/._ok.jpg", APPLE_DOUBLE, Expectation("ignored"))
    put("leftovers/__MACOSX/._ok.jpg", APPLE_DOUBLE, Expectation("ignored"))
    put("leftovers/Thumbs.db", b"\xd0\xcf\x11\xe0", Expectation("ignored"))
    put("leftovers/ok.jpg")

    # names that are one name to somebody
    for name in ("Cat.jpg", "cat.jpg", "cat.JPG"):
        put(f"names/{name}")
    put("names/cat.png", encoded(pixels(next(seeds)), "PNG"), accepted("re-encoded"))
    put("names/" + unicodedata.normalize("NFC", "café.jpg"))
    put("names/" + unicodedata.normalize("NFD", "café.jpg"))
    # names that are something to a terminal, a shell, a page or a format string
    for name in (
        "line\nbreak.jpg",
        "quote'\"`.jpg",
        "<img src=x onerror=alert(1)>.jpg",
        "\x1b[31mred\x1b]0;title\x07.jpg",
        "%s%n%x.jpg",
        "$(touch canary).jpg",
        "{0..9}.jpg",
        "-rf.jpg",
        "*.jpg",
        "=HYPERLINK(1).jpg",
        "\u202egpj.exe.jpg",
        "n" * 251 + ".jpg",
        os.fsdecode(b"caf\xe9.jpg"),
    ):
        put(f"names/{name}")

    # the same bytes again
    twice = jpeg(next(seeds))
    put("same/1.jpg", twice)
    put("same/2.jpg", twice, Expectation("alias"))
    put("same/3.jpg")
    shared = jpeg(next(seeds))
    put("same/shared.jpg", shared)
    put("twin/shared.jpg", shared, Expectation("accepted", "E170"))
    put("twin/own.jpg")

    (root / "empty").mkdir()
    return expected
