"""The report is safe with any text, complete, the same every time, and cleans up after itself."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dataforge.backends.mask_quality import FLAG_BELOW
from dataforge.report import write_report
from dataforge.report.overview import calibration
from dataforge.report.thumbnails import make_thumbnail
from dataforge.report.wording import swatch
from manifests.corpus import open_corpus
from manifests.errors import CorpusError
from manifests.pixels import encode_image, encode_mask, mask_from_box
from manifests.records import LedgerRow

MakeCorpus = Callable[..., Path]

PAYLOADS = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "` onmouseover=alert(1) `",
    '" autofocus onfocus=alert(1) x="',
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "javascript:alert(1)",
    "jav\tascript:alert(1)",
    "<body onload=alert(1)>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<object data=javascript:alert(1)></object>",
    "<embed src=javascript:alert(1)>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<input onfocus=alert(1) autofocus>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<!--<script>alert(1)</script>-->",
    "--><script>alert(1)</script><!--",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;alert(1)",
    "{{ 7 * 7 }}{% raw %}{{ self.__init__.__globals__ }}",
    "${alert(1)} <%= 1 %> {{constructor.constructor('alert(1)')()}}",
    "red; } body { background: url(https://evil.example/x) } .x {",
    "expression(alert(1)); background:url(javascript:alert(1))",
    "\u202e<script>alert(1)</script>\u2066",
    "+ADw-script+AD4-alert(1) \x00<scr\x00ipt>",
]


class Page(HTMLParser):
    """What a browser would see: elements, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def all(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key == name]


def report(root: Path, *, page_above: int = 300) -> dict[str, bytes]:
    with open_corpus(root) as corpus:
        write_report(corpus, page_above=page_above)
    return {path.name: path.read_bytes() for path in sorted((root / "report").iterdir())}


LINK = re.compile(r"#[a-z0-9:/_-]*|[a-z0-9_.-]+\.html(#[a-z0-9:/_-]+)?|data:image/webp;base64,[\w+/=]+")


def elements(page: Page) -> Counter[tuple[str, ...]]:
    """How often each element stands there with which attributes."""
    return Counter((tag, *sorted(attributes)) for tag, attributes in page.elements)


def test_calibration_counts_masks_that_the_embedded_segmenter_drew(make_corpus: MakeCorpus):
    with open_corpus(make_corpus(text="embedded")) as corpus:
        drawn = [sample.mask_quality for sample in corpus.samples() if sample.role == "src"]
        rows = calibration(corpus.table())
    with open_corpus(make_corpus(text="given")) as corpus:
        assert calibration(corpus.table()) == []
    assert sum(row.here for row in rows) == len(drawn) == 2
    assert [row.here for row in rows if row.low <= 0.25 < row.high] == [1]
    assert [row.here for row in rows if row.low <= 0.9 < row.high] == [1]
    # what the estimate says rises with what it was worth, and where flags end most masks are good
    assert [row.good for row in rows if row.low >= FLAG_BELOW] == sorted(row.good for row in rows)[-2:]
    assert all(row.good >= 0.8 for row in rows if row.low >= FLAG_BELOW)


def test_the_hypothesis_that_lost_is_drawn_in_the_pictures_own_pixels(make_corpus: MakeCorpus):
    root = make_corpus()
    with open_corpus(root) as corpus:
        write_report(corpus)
        sample = next(sample for sample in corpus.samples() if sample.role == "src")
    page = Page(root / "report" / "index.html")
    drawn = [attributes["d"] for _, attributes in page.elements if attributes.get("class") == "rival"]
    # shown at its own size, points lie in the middle of pixels
    assert f"M0.5 0.5L{sample.width // 2}.5 0.5L{sample.width // 2}.5 {sample.height - 1}.5Z" in drawn


@pytest.mark.parametrize("page_above", [300, 1])
def test_hostile_text_is_only_ever_text(make_corpus: MakeCorpus, page_above: int) -> None:
    def pages_of(text: str) -> list[Page]:
        root = make_corpus(text=text)
        return [Page(root / "report" / name) for name in report(root, page_above=page_above)]

    plain = [elements(page) for page in pages_of("a plain text")]
    assert len(plain) == (1 if page_above == 300 else 7)
    for payload in PAYLOADS:
        pages = pages_of(payload)
        assert [elements(page) for page in pages] == plain, payload
        for page in pages:
            assert "script" not in {tag for tag, _ in page.elements}
            assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
            assert [link for link in page.all("href") + page.all("src") if not LINK.fullmatch(link)] == []
            for name in ("style", "fill", "d", "id", "class", "width", "x"):
                assert not [value for value in page.all(name) if re.search(r"[<>&\"'()\\;]", value)], payload
        # files (found, copied, refused, ignored), subject, prompt, caption, words, sentences, notes, stages, recipe
        assert sum(page.text.count(payload) for page in pages) >= 25, payload
        assert any(payload in alt for page in pages for alt in page.all("alt"))


def test_every_page_forbids_everything_but_its_own_pictures_and_style(make_corpus: MakeCorpus) -> None:
    root = make_corpus()
    for page_above in (300, 1):
        for name in report(root, page_above=page_above):
            page = Page(root / "report" / name)
            metas = [attributes for tag, attributes in page.elements if tag == "meta"]
            policies = [meta["content"] or "" for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"]
            assert len(policies) == 1
            assert policies[0].startswith("default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'")
            # nothing with text from data may stand before the policy
            assert [tag for tag, _ in page.elements[:4]] == ["html", "head", "meta", "meta"]


def test_the_same_corpus_gives_the_same_bytes(make_corpus: MakeCorpus) -> None:
    for page_above in (300, 1):
        first, second = make_corpus(["cat", "dog"]), make_corpus(["cat", "dog"])
        assert (
            report(first, page_above=page_above)
            == report(second, page_above=page_above)
            == report(second, page_above=page_above)
        )
        assert not [
            name
            for name, data in report(first, page_above=page_above).items()
            if b"not-told" in data or bytes(first.parent) in data
        ]


def test_every_sample_is_shown_once_with_anchor_picture_outline_and_box(make_corpus: MakeCorpus) -> None:
    root = make_corpus(["cat", "dog"])
    with open_corpus(root) as corpus:
        ids = list(corpus)
        done: list[tuple[str, int, int]] = []
        write_report(corpus, on_progress=lambda *values: done.append(values))
    page = Page(root / "report" / "index.html")
    figures = [a for tag, a in page.elements if tag == "figure" and a.get("id")]
    assert sorted(str(a["id"]) for a in figures) == ids
    assert done == [("report", number + 1, len(ids)) for number in range(len(ids))]
    assert len(page.all("src")) == len(ids)
    masked = [name for name in ids if not name.startswith("scenes/")]
    assert page.all("class").count("over") == page.all("class").count("under") == len(masked)
    assert page.all("class").count("box-over") == len(ids)
    assert all(page.text.count(name) for name in ids)
    assert len(page.all("id")) == len(set(page.all("id")))


def test_flagged_photographs_come_first_and_say_why(make_corpus: MakeCorpus) -> None:
    root = make_corpus(photographs=4)
    report(root)
    page = Page(root / "report" / "index.html")
    figures = [(a["id"], a["class"]) for tag, a in page.elements if tag == "figure" and a.get("id")]
    assert figures[0] == ("dog/src-" + "1".zfill(12), "src flagged")
    assert [kind for _, kind in figures[1:4]] == ["src"] * 3
    assert "mask is doubtful" in page.text


def test_a_large_corpus_has_a_page_per_subject_and_every_link_leads_somewhere(make_corpus: MakeCorpus) -> None:
    # a subject may be called `index`, and one page may not hold all of its pictures
    root = make_corpus(["cat", "index", "rejects"])
    names = set(report(root, page_above=3))
    expected = {"index.html", "rejects.html", "scenes.html"}
    expected |= {f"subject-{name}{part}.html" for name in ("cat", "index", "rejects") for part in ("", ".2")}
    assert names == expected
    targets = {name: set(Page(root / "report" / name).all("id")) for name in names}
    seen: set[str] = set()
    for name in names:
        for link in Page(root / "report" / name).all("href"):
            file, _, fragment = link.partition("#")
            assert not fragment or fragment in targets[file or name], (name, link)
            seen.add(file or name)
    assert seen == names
    with open_corpus(root) as corpus:
        assert sorted(corpus) == sorted(i for name in names for i in targets[name] if "/" in i)


def test_shared_regular_pictures_stand_once_and_are_linked_both_ways(make_corpus: MakeCorpus) -> None:
    root = make_corpus(["cat", "dog"], shared=True)
    for page_above in (300, 3):
        names = report(root, page_above=page_above)
        assert ("class-thing.html" in names) == (page_above == 3)
        own = Page(root / "report" / ("class-thing.html" if page_above == 3 else "index.html"))
        cat = Page(root / "report" / ("subject-cat.html" if page_above == 3 else "index.html"))
        assert "2 pictures shared by the class" in cat.text
        assert any(link.endswith("#class:class-thing") for link in cat.all("href"))
        assert {link.partition("#")[2] for link in own.all("href")} >= {"subject:cat", "subject:dog"}
        assert sum(name.startswith("class-thing/reg-") for name in own.all("id")) == 2


def test_a_subject_of_which_nothing_was_kept_says_why(make_corpus: MakeCorpus) -> None:
    root = make_corpus()
    for page_above in (300, 1):
        with open_corpus(root) as corpus:
            empty = replace(corpus.subjects["dog"], id="owl", status="insufficient", sample_ids=(), regular_ids=())
            corpus.subjects["owl"] = empty  # type: ignore[index]
            row = LedgerRow(
                path="owl/1.heic", kind="photograph", status="quarantined", subject="owl", sentence="no HEIC"
            )
            corpus.ledger.append(row)
            write_report(corpus, page_above=page_above)
        page = Page(root / "report" / ("subject-owl.html" if page_above == 1 else "index.html"))
        assert "Too few photographs" in page.text
        assert "owl/1.heic" in page.text
        assert "no HEIC" in page.text


def test_pages_of_subjects_that_are_gone_are_removed(make_corpus: MakeCorpus) -> None:
    root = make_corpus(["cat"])
    report(root, page_above=1)
    kept = root / "report" / "notes.txt"
    kept.write_text("a person's own file")
    assert set(report(root)) == {"index.html", "notes.txt"}


def test_colours_of_words_are_shown_only_where_they_are_known(make_corpus: MakeCorpus) -> None:
    assert swatch("Red") == swatch(" red ") == "#d4232a"
    assert swatch("light gray") == swatch("light grey") != ""
    assert swatch("url(x)") == swatch("#fff") == swatch("") == ""
    root = make_corpus()
    report(root)
    assert set(Page(root / "report" / "index.html").all("fill")) == {"#d4232a"}


def test_a_report_folder_that_leads_elsewhere_is_refused(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    root = make_corpus()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.html").write_text("mine")
    os.symlink(elsewhere, root / "report")
    with open_corpus(root) as corpus, pytest.raises(CorpusError, match="E307"):
        write_report(corpus)
    assert [path.name for path in elsewhere.iterdir()] == ["mine.html"]


def test_a_subject_whose_id_is_a_path_is_refused(make_corpus: MakeCorpus) -> None:
    root = make_corpus()
    with open_corpus(root) as corpus:
        subject = corpus.subjects["dog"]
        corpus.subjects["../dog"] = subject  # type: ignore[index]
        with pytest.raises(CorpusError, match="E301"):
            write_report(corpus)
    assert not (root / "report").exists()


def test_the_outline_runs_around_the_mask_at_any_size_and_shape() -> None:
    rng = np.random.default_rng(1)
    for width, height in ((512, 384), (100, 30), (1000, 40), (9, 300)):
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        box = (width // 3, height // 3, width, height)  # as far as the picture's corner
        mask = mask_from_box(box, height, width)
        made = make_thumbnail(*encode_image(pixels), encode_mask(mask), 256)
        assert made is not None
        scales = made.width / width, made.height / height
        assert max(made.width, made.height) == min(256, max(width, height))
        numbers = [float(number) for number in re.findall(r"[-\d.]+", made.outline)]
        assert made.outline.count("M") == 1
        for values, scale, low, high in zip((numbers[::2], numbers[1::2]), scales, box[:2], box[2:], strict=True):
            assert min(values) == pytest.approx(low * scale, abs=1.01)
            assert max(values) == pytest.approx(high * scale, abs=1.01)


def test_a_picture_that_cannot_be_decoded_does_not_stop_the_report() -> None:
    assert make_thumbnail(b"no picture", "jpg", None, 64) is None
    assert make_thumbnail(b"no picture", "svg", None, 64) is None
