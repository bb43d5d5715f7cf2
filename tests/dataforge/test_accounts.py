"""Every file found has one ledger row; a bad file never stops a build, and nothing private leaves it."""

from __future__ import annotations

import getpass
import io
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import manifests
from dataforge import build
from dataforge.config import Recipe
from dataforge.ingest.names import escape_name
from dataforge.ingest.sources import read_inputs
from manifests.errors import UsageError
from tests.conftest import draw_photograph, draw_subjects
from tests.dataforge.conftest import FAKE


def ledger(output: Path) -> dict[str, manifests.LedgerRow]:
    with manifests.open(str(output)) as corpus:
        return {row.path: row for row in corpus.ledger if row.path}


def files_below(folder: Path) -> set[str]:
    return {escape_name(str(p.relative_to(folder))) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def test_bad_files_are_quarantined_with_a_sentence_and_the_build_goes_on(tmp_path, fake):
    photographs = draw_subjects(tmp_path / "photographs", subjects=2, photographs=3)
    folder = photographs / "red_ball0"
    good = (folder / "0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><html>no picture</html>")
    (folder / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (folder / "link.jpg").symlink_to("/etc/passwd")
    (folder / "copy.jpg").write_bytes(good)
    (folder / "._0.jpg").write_bytes(b"\0\5\26\7")
    (folder / "notes.txt").write_text("a note")
    (photographs / "empty_subject").mkdir()
    result = build(photographs, tmp_path / "corpus", fake, workers=1)
    rows = ledger(tmp_path / "corpus")
    assert rows.keys() == files_below(photographs)
    found = {
        name.split("/")[1]: (row.status, row.code or row.rule) for name, row in rows.items() if "red_ball0" in name
    }
    assert found["cut.jpg"] == ("quarantined", "E130")
    assert found["empty.jpg"] == ("quarantined", "E102")
    assert found["page.jpg"] == ("quarantined", "E110")
    assert found["pointer.jpg"] == ("quarantined", "E105")
    assert found["link.jpg"] == ("quarantined", "E101")
    assert sorted((found["0.jpg"][0], found["copy.jpg"][0])) == ["accepted", "alias"]
    assert found["._0.jpg"] == ("ignored", "apple-double")
    assert found["notes.txt"] == ("ignored", "not-a-picture .txt")
    assert all(row.sentence for row in rows.values() if row.status == "quarantined")
    assert result.exit_code == 3
    assert result.insufficient == ("empty_subject",)
    assert manifests.validate(tmp_path / "corpus", full=True) == []


def said(row: manifests.LedgerRow) -> str:
    """The code of a row, or of the warning among the notes of an accepted one."""
    return row.code or next((note.split()[0] for note in row.notes if note.startswith("E")), "")


def test_the_nasty_folder_meets_its_expectations(tmp_path, fake):
    from tests.nasty import make_nasty_folder

    root = tmp_path / "photographs"
    expected = {escape_name(path): wanted for path, wanted in make_nasty_folder(root).items()}
    build(root, tmp_path / "corpus", fake, workers=1)
    rows = ledger(tmp_path / "corpus")
    assert rows.keys() == files_below(root)
    wrong = {
        path: (rows[path].status, rows[path].code, wanted)
        for path, wanted in expected.items()
        if (rows[path].status, said(rows[path])) != (wanted.status, wanted.code)
    }
    assert not wrong
    assert manifests.validate(tmp_path / "corpus", full=True) == []


def test_two_subjects_on_one_slug_are_an_error_that_names_both(tmp_path):
    for name in ("My Mug", "my-mug"):
        draw_photograph(tmp_path / name / "0.jpg", colour=(1, 2, 3), seed=1)
    with pytest.raises(UsageError, match='"My Mug" and "my-mug" both become my-mug'):
        read_inputs(tmp_path)


def test_same_bytes_in_two_subjects_are_kept_and_said(tmp_path, fake):
    photographs = draw_subjects(tmp_path / "photographs", subjects=2, photographs=2)
    (photographs / "blue_ball1" / "same.jpg").write_bytes((photographs / "red_ball0" / "0.jpg").read_bytes())
    build(photographs, tmp_path / "corpus", fake, workers=0)
    row = ledger(tmp_path / "corpus")["red_ball0/0.jpg"]
    assert any(note.startswith("E170") for note in row.notes)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert "in-two-subjects" in corpus[row.sample_id].flags
        # and they never part: one near-duplicate group, one split
        assert corpus.subjects["red_ball0"].split == corpus.subjects["blue_ball1"].split


def test_near_duplicates_pull_their_subjects_into_one_split(tmp_path):
    photographs = draw_subjects(tmp_path / "photographs", subjects=5, photographs=2)
    (photographs / "brown_ball4" / "same.jpg").write_bytes((photographs / "red_ball0" / "0.jpg").read_bytes())
    seen = set()
    for seed in range(6):
        recipe = Recipe.model_validate({**FAKE, "split": {"validation": 0.5, "seed": seed}})
        build(photographs, tmp_path / "corpus", recipe, workers=0)
        with manifests.open(str(tmp_path / "corpus")) as corpus:
            assert corpus.subjects["red_ball0"].split == corpus.subjects["brown_ball4"].split
            seen.add(tuple(subject.split for subject in corpus.subjects.values()))
            photographs_of = corpus.samples(role="src")
            assert all(sample.split == corpus.subjects[sample.subject].split for sample in photographs_of)
    assert len(seen) > 1


CANARY = "PRIVATE-CANARY"


def tagged(number: int) -> tuple[str, bytes]:
    """A picture that carries the canary in one of many ways."""
    rng = np.random.default_rng(number)
    pixels = np.clip(rng.normal(120, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
    pixels[16:48, 16:48] = rng.integers(0, 255, 3)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x8298] = f"{CANARY} {number}"
    exif.get_ifd(0x8825)[0x001D] = CANARY  # the GPS block
    exif[0x0112] = 1 + number % 8
    buffer = io.BytesIO()
    match number % 5:
        case 0:
            image.save(buffer, "JPEG", exif=exif, comment=f"{CANARY} comment")
            return "jpg", buffer.getvalue()
        case 1:
            text = PngImagePlugin.PngInfo()
            text.add_text("Author", CANARY)
            text.add_itxt("XML:com.adobe.xmp", CANARY)
            image.save(buffer, "PNG", pnginfo=text, exif=exif)
            return "png", buffer.getvalue()
        case 2:
            image.save(buffer, "WEBP", exif=exif, xmp=f"<x>{CANARY}</x>".encode())
            return "webp", buffer.getvalue()
        case 3:
            image.save(buffer, "TIFF", tiffinfo={270: f"{CANARY} description", 315: CANARY})
            return "tif", buffer.getvalue()
        case _:
            image.save(buffer, "JPEG")
            data = buffer.getvalue()
            xmp = b"http://ns.adobe.com/xap/1.0/\0<x>" + CANARY.encode() + b"</x>"
            iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\x10" + CANARY.encode()
            segments = b"".join(
                marker + (len(body) + 2).to_bytes(2) + body
                for marker, body in ((b"\xff\xe1", xmp), (b"\xff\xed", iptc))
            )
            return "jpg", data[:2] + segments + data[2:] + CANARY.encode()


def test_no_location_absolute_path_user_or_host_name_in_any_output_byte(tmp_path, fake):
    photographs = tmp_path / "photographs"
    for number in range(30):
        ending, data = tagged(number)
        assert CANARY.encode() in data
        path = photographs / f"thing{number % 3}" / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    build(photographs, tmp_path / "corpus", fake, workers=2)
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        assert corpus.header.counts["photographs"] == 30
    needles = {CANARY, str(tmp_path), str(Path.home())}
    # a name of two letters stands in random bytes by chance
    needles |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    looked_at = 0
    for path in sorted((tmp_path / "corpus").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            looked_at += 1
            for needle in needles:
                assert needle.encode() not in data, f"{needle} in {path.relative_to(tmp_path)}"
    assert looked_at > 15
