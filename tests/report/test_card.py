"""The card parses, tells the truth, runs as printed, and cannot be written into by data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dataforge.report import write_card
from dataforge.report.card import markdown_text
from manifests.corpus import open_corpus

MakeCorpus = Callable[..., Path]

HOSTILE = [
    "a | b | c",
    "line one\nline two\n\n# heading\n\n| x | y |",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[link](https://evil.example)",
    "![picture](https://evil.example/x.png)",
    "[ref]: https://evil.example",
    "<https://evil.example>",
    "https://evil.example/ and www.evil.example and a@evil.example",
    "`code` ``` fence",
    "**bold** _it_ ~~gone~~ $x$",
    "\\| \\` \\[x](y)",
    "ends with a backslash \\",
    "&lt;b&gt; &#124;",
    "---\nlicense: mit\n---",
]


def card(root: Path) -> str:
    with open_corpus(root) as corpus:
        write_card(corpus)
    return (root / "README.md").read_text("utf-8")


def body_of(text: str) -> str:
    return text.split("---\n", 2)[2]


def tokens(text: str) -> list[Token]:
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body_of(text))
    return [inner for token in parsed for inner in [token, *(token.children or [])]]


def front_matter(text: str) -> dict[str, object]:
    loaded = yaml.safe_load(text.split("---\n", 2)[1])
    assert isinstance(loaded, dict)
    return loaded


def test_front_matter_names_a_licence_only_where_all_subjects_share_it(make_corpus: MakeCorpus) -> None:
    assert front_matter(card(make_corpus(licence="CC-BY-4.0")))["license"] == "cc-by-4.0"
    own = front_matter(card(make_corpus(licence="my: own\n- 'licence' #1")))
    assert (own["license"], own["license_name"]) == ("other", "my: own\n- 'licence' #1")
    root = make_corpus(["cat", "dog"], licence="MIT")
    with open_corpus(root) as corpus:
        object.__setattr__(corpus.subjects["cat"], "licence", "CC0-1.0")
        write_card(corpus)
    assert "license" not in front_matter((root / "README.md").read_text())


def test_the_same_corpus_gives_the_same_bytes(make_corpus: MakeCorpus) -> None:
    first, second = card(make_corpus(["cat", "dog"])), card(make_corpus(["cat", "dog"]))
    assert first == second
    assert "not-told" not in first


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_text_adds_nothing_to_the_card(make_corpus: MakeCorpus, payload: str) -> None:
    def shape(text: str) -> list[str]:
        return [token.type for token in tokens(text) if token.type not in ("text", "text_special", "softbreak")]

    plain, hostile = card(make_corpus(licence="MIT")), card(make_corpus(text=payload, licence="MIT"))
    assert shape(hostile) == shape(plain)
    assert front_matter(hostile).keys() == front_matter(plain).keys()
    shown = [
        " ".join(inner.content for inner in token.children or []) for token in tokens(hostile) if token.type == "inline"
    ]
    said = " ".join(payload.split())
    assert sum(said.replace(" ", "") in text.replace(" ", "") for text in shown) >= 5
    # bare addresses are links in GitHub's and the Hub's dialects, which this parser does not speak
    assert not re.search(r"https?://|www\.|\w@\w", body_of(hostile))


def test_text_is_escaped_to_one_line() -> None:
    assert markdown_text("plain_name, 3 of 4 (a-b)") == "plain_name, 3 of 4 (a-b)"
    assert markdown_text("a|b\n<c>`d`[e]") == r"a\|b &lt;c&gt;\`d\`\[e\]"
    assert markdown_text("\x1b[31m\u202e") == r"\\x1b\[31m\\u202e"


def test_many_subjects_are_counted_not_listed(make_corpus: MakeCorpus) -> None:
    text = card(make_corpus([f"subject-{number:03d}" for number in range(203)], photographs=1))
    assert text.count("| `subject-") == 200
    assert "and 3 more, in `subjects.parquet`." in text


@pytest.mark.parametrize("number", range(5))
def test_every_snippet_runs_as_printed(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    root = make_corpus(["cat", "dog"])
    snippets = re.findall(r"```python\n(.*?)```", card(root), re.DOTALL)
    assert len(snippets) == 5
    snippet = snippets[number]
    if "import webdataset" in snippet:
        pytest.importorskip("webdataset")
    monkeypatch.chdir(root)
    exec(compile(snippet, f"snippet {number}", "exec"), {})
    out = capsys.readouterr().out
    if number in (0, 1, 3):
        with open_corpus(root) as corpus:
            wanted = [sample.id for sample in corpus.samples(role="src" if number == 0 else None)]
        assert all(name in out for name in wanted)
    assert out.strip()
