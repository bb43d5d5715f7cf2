"""Reading where it lies: what is asked of the server, what is believed, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.corpus import open_corpus
from manifests.errors import UsageError
from manifests.patience import fault_of, patiently
from tests.conftest import tree_digest
from tests.manifests.corpora import flip
from tests.publish.conftest import digest_of

OPEN = """
import hashlib, sys, manifests
with manifests.open({ref!r}) as corpus:
    print("opened", len(corpus))
    for name in {names!r}:
        print(hashlib.sha256(corpus.image_bytes(name)).hexdigest())
"""


def names_of(root: Path, count: int) -> list[str]:
    with open_corpus(root) as corpus:
        return list(corpus.ids)[:count]


def test_one_picture_by_id_costs_one_range_request_after_opening(published, both_shapes):
    ref = f"{published.ref}@{digest_of(both_shapes)}"
    (name,) = names_of(both_shapes, 1)
    for _ in range(2):  # with an empty cache, and from it
        published.hub.log.clear()
        done = published.python(OPEN.format(ref=ref, names=[name]))
        more = published.hub.log[-1]
        with open_corpus(both_shapes) as corpus:
            record = corpus.record(name)
        assert done.out.split()[-1] == record.image.sha256
        last = record.image.offset + record.image.length - 1
        assert more.path.endswith(f"/resolve/{digest_of(both_shapes)}/{record.image.shard}")
        assert more.byte_range == f"bytes={record.image.offset}-{last}"
        assert len([asked for asked in published.hub.log if ".tar" in asked.path]) == 1


def test_version_that_is_in_the_cache_is_opened_and_searched_without_the_server(published, both_shapes):
    ref = f"{published.ref}@{digest_of(both_shapes)}"
    published.python(OPEN.format(ref=ref, names=[]))
    published.hub.log.clear()
    assert published.python(OPEN.format(ref=ref, names=[])).out == "opened 13\n"
    listed = published.dataforge("ls", ref, "--where", "role = 'src'", "--json")
    assert len(listed.out.splitlines()) == 9
    assert published.hub.log == []


def test_every_further_picture_is_one_request_more(published, both_shapes):
    ref, names = f"{published.ref}@{digest_of(both_shapes)}", names_of(both_shapes, 12)
    published.python(OPEN.format(ref=ref, names=[]))
    published.hub.log.clear()
    published.python(OPEN.format(ref=ref, names=names[:1]))
    first = len(published.hub.log)
    published.hub.log.clear()
    published.python(OPEN.format(ref=ref, names=names))
    assert len(published.hub.log) == first + 11


def test_header_and_tables_are_fetched_once_and_no_picture_with_them(lfs, both_shapes):
    assert lfs.publish(both_shapes).code == 0
    ref = f"{lfs.ref}@{digest_of(both_shapes)}"
    lfs.hub.log.clear()
    lfs.python(OPEN.format(ref=ref, names=[]))
    fetched = [asked.path.rpartition("/")[2] for asked in lfs.hub.asked("GET .*/resolve/")]
    assert sorted(name.partition("-")[0] for name in fetched) == ["corpus.json", "ledger", "manifest", "subjects"]
    lfs.hub.log.clear()
    lfs.python(OPEN.format(ref=ref, names=[]))
    assert lfs.hub.asked("GET .*/resolve/") == []
    (kept,) = (lfs.cache / "corpora").iterdir()
    assert kept.name == digest_of(both_shapes)
    assert kept.stat().st_mode & 0o77 == 0, "what is private stays so in the cache"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
def test_damaged_cache_is_found_out_and_filled_anew(published, both_shapes, tmp_path, damage):
    ref, names = f"{published.ref}@{digest_of(both_shapes)}", names_of(both_shapes, 3)
    folder = tmp_path / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "cache", folder)
        first = published.python(OPEN.format(ref=ref, names=names)).out
        root = folder / "corpora" / digest_of(both_shapes)
        whole = tree_digest(root)
        assert len(whole) == 6
        for name in whole:
            damage(root / name)
            published.hub.log.clear()
            assert published.python(OPEN.format(ref=ref, names=names)).out == first, name
            assert tree_digest(root) == whole, name
            assert published.hub.asked("GET .*corpus.json"), name
        assert [path.name for path in root.parent.iterdir()] == [root.name]
        published.hub.log.clear()
        assert published.python(OPEN.format(ref=ref, names=names)).out == first
        assert published.hub.asked("GET .*corpus.json") == [], "a whole one is not fetched again"


def test_branch_is_read_as_it_was_when_opened(lfs, both_shapes, shards_only):
    assert lfs.publish(both_shapes).code == 0
    lfs.hub.log.clear()
    done = lfs.python(OPEN.format(ref=lfs.ref, names=names_of(both_shapes, 1)))
    assert "opened 13" in done.out
    (asked,) = lfs.hub.asked("GET .*tar$")
    assert f"/resolve/{digest_of(both_shapes)}/" in asked.path


def test_part_of_a_remote_corpus_is_opened_and_streamed(published, both_shapes):
    code = """
import json, manifests
with manifests.open({ref!r}) as corpus:
    shown = [[e.sample.id, list(e.image.shape), int(e.mask.sum())] for e in corpus.stream()]
    print(json.dumps([list(corpus.ids), shown, corpus.subjects["red-mug"].consent, corpus.name]))
"""
    done = published.python(code.format(ref=f"{published.ref}#red-mug"))
    ids, shown, consent, name = json.loads(done.out.splitlines()[-1])
    with open_corpus(f"{both_shapes}#red-mug") as corpus:
        assert ids == list(corpus.ids)
        assert shown == [[e.sample.id, list(e.image.shape), int(e.mask.sum())] for e in corpus.stream()]
    assert consent == "given for research"
    assert name == f"{published.ref}@{digest_of(both_shapes)}"


def test_it_is_read_on_in_a_forked_process(published, both_shapes):
    code = """
import os, manifests
corpus = manifests.open({ref!r})
first, second, *_ = corpus.ids
corpus.image(first)
child = os.fork()
if child == 0:
    corpus.image(second)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), corpus.image(second).shape)
"""
    assert published.python(code.format(ref=published.ref)).out.startswith("7 ")


TELL = """
import manifests
try:
    with manifests.open({ref!r}) as corpus:
        for name in corpus.ids:
            corpus.image_bytes(name)
    print("fine")
except manifests.ReportedError as error:
    print(error.exit_code, error)
"""


@pytest.mark.parametrize(
    ("pattern", "what", "told"),
    [
        ("GET .*tar$", "wrong", "4 E401 checksum: "),
        ("GET .*tar$", "short", "4 E401 checksum: "),
        ("GET .*tar$", 404, "4 E403 file-missing: hf://"),
        ("GET .*tar$", 403, "2 E507 remote-refused: hf://"),
        ("GET .*manifest-", "wrong", "4 E408 remote-checksum: hf://"),
        ("GET .*ledger-", "short", "4 E408 remote-checksum: hf://"),
        ("GET .*corpus.json", "wrong", "4 E404 bad-header: "),
        ("GET .*corpus.json", 404, "2 E503 not-found: hf://"),
    ],
)
def test_what_a_server_gives_is_not_believed(published, tmp_path, pattern, what, told):
    published.hub.fault(pattern, what, times=-1)
    done = published.python(TELL.format(ref=published.ref), DATAFORGE_CACHE=str(tmp_path / "fresh"))
    published.hub.fresh()
    assert done.out.startswith(told), done.out + done.err
    assert published.python(TELL.format(ref=published.ref), DATAFORGE_CACHE=str(tmp_path / "fresh")).out == "fine\n"


@pytest.mark.parametrize("what", [500, 503, 429, "reset", "cut"])
def test_fault_on_the_way_is_made_good(published, tmp_path, what):
    published.hub.fault("GET .*tar$", what, times=2, headers={"Retry-After": "0"})
    environment = {"DATAFORGE_CACHE": str(tmp_path / "fresh"), "DATAFORGE_PATIENCE_S": "60"}
    done = published.clients.python(TELL.format(ref=published.ref), **environment)
    published.hub.fresh()
    assert done.out == "fine\n", done.out + done.err


def test_address_that_is_none_is_told_at_once():
    import httpx2

    found = fault_of(
        httpx2.UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol."), "hf://x"
    )
    assert found is not None
    assert (found[0].exit_code, found[1]) == (2, 0)
    assert "(is HF_ENDPOINT right?)" in str(found[0])


def test_patience_that_is_no_number_is_told(monkeypatch):
    monkeypatch.setenv("DATAFORGE_PATIENCE_S", "a while")
    with pytest.raises(UsageError, match=r"E501 .*DATAFORGE_PATIENCE_S is 'a while'; it is a number of seconds"):
        patiently(lambda: None, "hf://x")


def test_of_two_that_open_at_once_both_find_it(lfs, both_shapes):
    assert lfs.publish(both_shapes).code == 0
    code = """
import manifests
def work(number):
    with manifests.open({ref!r}) as corpus:
        return len(corpus.image_bytes(corpus.ids[number]))
if __name__ == "__main__":
    import threading
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(work(n))) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(len(found))
"""
    assert lfs.python(code.format(ref=lfs.ref)).out == "4\n"
    assert [path.name for path in (lfs.cache / "corpora").iterdir()] == [digest_of(both_shapes)]


def test_verbs_take_remote_references(published, both_shapes):
    (name,) = names_of(both_shapes, 1)
    shown = published.dataforge("show", f"{published.ref}#{name}")
    assert shown.code == 0, shown.err
    assert f"{name}:" in shown.out
    listed = published.dataforge("ls", f"{published.ref}#red-mug", "--json")
    assert len(listed.out.splitlines()) == 6
    traced = published.dataforge("trace", f"{published.ref}#{name}")
    assert traced.code == 0, traced.err
    missing = published.dataforge("show", f"{published.ref}#red-mugg")
    assert missing.code == 2
    assert "Did you mean red-mug" in missing.err
