"""Streams: exactly the epoch over any ranks and workers, resumed exactly anywhere, batches that stay as they are."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from manifests.corpus import open_corpus
from manifests.errors import EnvironmentFault, IntegrityError, UsageError
from manifests.shards import ShardBytes
from tests.manifests.corpora import flip

BATCHES = {"batch_size": 4, "size": 24, "seed": 7}


@pytest.fixture
def corpus(many):
    with open_corpus(many) as opened:
        yield opened


def drawn(stream) -> list[str]:
    return [name for batch in stream for name in batch.ids]


def content(stream) -> list[tuple[str, bytes, bytes, tuple[int, ...]]]:
    """Everything a stream gives, sample by sample."""
    return [
        (name, image.tobytes(), mask.tobytes(), tuple(box))
        for batch in stream
        for name, image, mask, box in zip(batch.ids, batch.images, batch.masks, batch.boxes.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def unbroken(many):
    """An epoch decoded in the calling thread."""
    with open_corpus(many) as opened:
        return content(opened.stream(**BATCHES, workers=0, crop="random"))


def test_epoch_has_every_sample_once_in_an_order_of_seed_and_epoch(corpus):
    stream = corpus.stream(**BATCHES)
    epochs = [drawn(stream) for _ in range(3)]
    assert stream.epoch == 3
    for epoch, found in enumerate(epochs):
        assert sorted(found) == list(corpus.ids)
        assert found == corpus.stream(**BATCHES, epoch=epoch).ids() == drawn(corpus.stream(**BATCHES, epoch=epoch))
    assert len({tuple(found) for found in epochs}) == 3
    assert drawn(corpus.stream(**(BATCHES | {"seed": 8}))) != epochs[0]
    assert drawn(corpus.stream(batch_size=4, size=24)) == list(corpus.ids)


@pytest.mark.parametrize(
    ("workers", "mode"), [(1, "threads"), (2, "threads"), (5, "threads"), (1, "processes"), (3, "processes")]
)
def test_workers_change_nothing(corpus, unbroken, workers, mode):
    with corpus.stream(**BATCHES, workers=workers, mode=mode, crop="random") as stream:
        assert content(stream) == unbroken
        assert content(stream) != unbroken  # the next epoch


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("probability", [None, 0.4])
def test_ranks_together_are_the_epoch_and_share_no_place(corpus, world_size, probability):
    more = BATCHES | {"regular_probability": probability, "workers": 0}
    whole = corpus.stream(**more).ids()
    parts = [drawn(corpus.stream(**more, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert all(parts[rank] == whole[rank::world_size] for rank in range(world_size))
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_stream_taken_up_at_any_place_equals_the_unbroken_one(corpus, unbroken):
    for position in range(len(unbroken) + 1):
        assert content(corpus.stream(**BATCHES, workers=0, crop="random", position=position)) == unbroken[position:]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("probability", [None, 0.5])
def test_state_taken_after_any_batch_goes_on_as_the_unbroken_stream(corpus, world_size, probability):
    """Through JSON, into a new stream, over the end of the epoch; on another number of ranks and workers, too."""
    more = BATCHES | {"regular_probability": probability, "workers": 0}
    whole = [corpus.stream(**more, epoch=epoch).ids() for epoch in (0, 1)]
    first = corpus.stream(**more, world_size=world_size)
    states = [json.loads(json.dumps(first.state_dict())) for _ in first]
    assert len(states) == -(-len(whole[0][::world_size]) // 4)
    for number, state in enumerate(states, start=1):
        assert state["position"] == min(len(whole[0]), 4 * number * world_size)
        for ranks in (1, 3):
            rest, following = [], []
            for rank in range(ranks):
                again = corpus.stream(**more, rank=rank, world_size=ranks)
                again.load_state_dict(state)
                rest.append(drawn(again))
                assert (again.epoch, again.position) == (1, 0)
                following.append(again.ids())
            assert sorted(name for part in rest for name in part) == sorted(whole[0][state["position"] :])
            assert rest[0] == whole[0][state["position"] :: ranks]
            assert all(names == whole[1] for names in following)


def test_state_of_other_data_or_another_seed_is_refused(corpus, many):
    state = corpus.stream(**BATCHES).state_dict()
    with pytest.raises(UsageError, match="seed 7"):
        corpus.stream(**(BATCHES | {"seed": 8})).load_state_dict(state)
    for other in (corpus.stream(**BATCHES, role="src"), corpus.stream(**BATCHES, regular_probability=0.5)):
        with pytest.raises(UsageError, match="data"):
            other.load_state_dict(state)
    with pytest.raises(UsageError, match="no place 44"):
        corpus.stream(**BATCHES, position=44)


def test_drop_last_gives_every_rank_the_same_number_of_whole_batches(corpus):
    for world_size in (1, 2, 3):
        streams = [
            corpus.stream(**BATCHES, workers=0, drop_last=True, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        lengths = [[len(batch) for batch in stream] for stream in streams]
        assert lengths == [[4] * (43 // (4 * world_size))] * world_size
        assert all(stream.epoch == 1 for stream in streams)


def test_length_counts_the_batches_that_are_left(corpus):
    stream = corpus.stream(**BATCHES, workers=0)
    assert len(stream) == 11
    left = [len(stream) for _ in stream]
    assert left == list(range(10, -1, -1))
    assert len(corpus.stream(**BATCHES, rank=1, world_size=3)) == 4


def test_mixed_stream_has_each_photograph_once_and_regular_pictures_by_probability(corpus):
    count = {"src": 0, "reg": 0}
    stream = corpus.stream(batch_size=64, size=8, seed=1, regular_probability=0.35, workers=0)
    for epoch in range(60):
        stream.seek(epoch)
        names = stream.ids()
        photographs = [name for name in names if "/src-" in name]
        assert sorted(photographs) == sorted(name for name in corpus if "/src-" in name)
        count["src"] += len(photographs)
        count["reg"] += sum("/reg-" in name for name in names)
        assert not any("/bg-" in name for name in names)
    total = sum(count.values())
    assert abs(count["reg"] / total - 0.35) < 3 * math.sqrt(0.35 * 0.65 / total)


def test_samples_are_chosen_by_role_split_condition_and_reference(corpus, many):
    assert {name.split("/")[1][:3] for name in drawn(corpus.stream(**BATCHES, role="reg"))} == {"reg"}
    assert drawn(corpus.stream(**BATCHES, split="validation")) == []
    chosen = drawn(corpus.stream(**BATCHES, where="role = 'src' AND image.format = 'jpg'"))
    assert sorted(chosen) == [s.id for s in corpus.samples(role="src") if s.image.format == "jpg"]
    with pytest.raises(UsageError, match="E501"):
        corpus.stream(**BATCHES, where="nosuch = 1")
    with open_corpus(f"{many}#mug-1") as part:
        assert sorted(drawn(part.stream(**BATCHES))) == list(part.ids)
        assert [example.sample.id for example in part.stream(seed=3)] == part.stream(seed=3).ids()


def test_batch_has_the_records_of_its_samples(corpus):
    for batch in corpus.stream(**BATCHES, workers=0):
        assert tuple(sample.id for sample in batch.samples) == batch.ids
        assert batch.samples == [corpus.record(name) for name in batch.ids]
        assert (batch.images.dtype, batch.masks.dtype, batch.boxes.dtype) == (np.uint8, np.bool_, np.int32)
        assert batch.images.shape == (len(batch), 24, 24, 3)
        assert batch.masks.shape == (len(batch), 24, 24)


@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_held_batches_stay_as_they_are_and_let_go_ones_are_used_again(corpus, unbroken, mode):
    with corpus.stream(**BATCHES, mode=mode, crop="random") as stream:
        kept = [(batch.ids, batch.images[1:], batch.masks[0]) for batch in stream]
        expected = {name: (image, mask) for name, image, mask, _ in unbroken}
        for ids, images, mask in kept:
            assert [image.tobytes() for image in images] == [expected[name][0] for name in ids[1:]]
            assert mask.tobytes() == expected[ids[0]][1]
        grown = len(stream._decoder.ring)
        assert grown >= 11
        del kept, images, mask
        for _ in range(3):
            assert len(drawn(stream)) == 43
        assert len(stream._decoder.ring) == grown
    with corpus.stream(**BATCHES, mode=mode) as stream:
        for _ in range(3):
            for _batch in stream:
                pass
        assert len(stream._decoder.ring) <= 5


@pytest.mark.parametrize(("workers", "mode"), [(0, "threads"), (2, "threads"), (2, "processes")])
def test_damaged_sample_ends_the_stream_before_it_and_is_named(many, tmp_path, workers, mode):
    import shutil

    root = shutil.copytree(many, tmp_path / "corpus")
    with open_corpus(root) as corpus:
        order = corpus.stream(**BATCHES).ids()
        bad = corpus.record(order[21])
    flip(root / bad.image.shard, bad.image.offset + bad.image.length // 2)
    with open_corpus(root) as corpus, corpus.stream(**BATCHES, workers=workers, mode=mode) as stream:
        for _ in range(2):
            seen = []
            with pytest.raises(IntegrityError, match=rf"E401 .*{bad.image.shard} at byte {bad.image.offset}"):
                seen.extend(name for batch in stream for name in batch.ids)
            # the stream stands where it failed: before the bad batch, again and again
            assert seen == (order[:20] if not _ else [])
            assert stream.state_dict()["position"] == 20
        stream.seek(0, 24)
        assert drawn(stream) == order[24:]


@pytest.mark.parametrize("verify", ["first", "always"])
def test_bytes_are_checked_the_first_time_or_always(many, tmp_path, verify):
    import shutil

    root = shutil.copytree(many, tmp_path / "corpus")
    with open_corpus(root) as corpus:
        stream = corpus.stream(**BATCHES, workers=0, verify=verify)
        assert len(drawn(stream)) == 43
        png = next(sample for sample in corpus.samples() if sample.image.format == "jpg")
        # a byte in the middle of a JPEG's data: it still decodes, to other pixels
        flip(root / png.image.shard, png.image.offset + png.image.length - 40)
        if verify == "always":
            with pytest.raises(IntegrityError, match="E401"):
                drawn(stream)
        else:
            assert len(drawn(stream)) == 43


def test_killed_worker_ends_the_stream_at_once_and_the_stream_can_go_on(corpus):
    with corpus.stream(**BATCHES, mode="processes") as stream:
        whole = stream.ids()
        iterator = iter(stream)
        seen = list(next(iterator).ids)
        os.kill(stream._decoder.process_ids[0], signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"E511 .*ended with signal 9"):
            seen.extend(name for batch in iterator for name in batch.ids)
        assert time.monotonic() - started < 20
        assert stream.state_dict()["position"] == len(seen)
        assert seen + drawn(stream) == whole


def is_running(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for is a zombie, and has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_worker_processes_end_with_the_process_that_started_them(many):
    code = (
        "import os, signal, sys, manifests\n"
        f"stream = manifests.open({str(many)!r}).stream(batch_size=4, size=24, mode='processes')\n"
        "next(iter(stream))\n"
        "print(*stream._decoder.process_ids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(text) for text in done.stdout.split()]
    assert len(workers) == 2
    for _ in range(200):
        left = [pid for pid in workers if is_running(pid)]
        if not left:
            break
        time.sleep(0.05)
    assert left == []


@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_loop_that_is_left_can_be_entered_again(corpus, mode):
    with corpus.stream(**BATCHES, mode=mode) as stream:
        whole = stream.ids()
        seen: list[str] = []
        while len(seen) < 43:
            for number, batch in enumerate(stream):
                seen += batch.ids
                if number == 2:
                    break
        assert seen == whole


@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_two_loops_over_one_stream_get_each_their_own_batches(corpus, unbroken, mode):
    """Taken in turn, at different paces: the second begins where the first one is; both have batches on their way."""
    with corpus.stream(**BATCHES, crop="random", mode=mode, workers=2) as stream:
        first, second = iter(stream), iter(stream)
        ahead, behind = [next(first)], []
        for batch in second:
            behind += content([batch])
            if len(behind) % 8 == 0:
                ahead += [batch for batch in (next(first, None),) if batch is not None]
        assert behind == unbroken[4:]
        assert (stream.epoch, stream.position) == (1, 0)
        ahead += list(first)
        assert content(ahead) == unbroken
        assert (stream.epoch, stream.position) == (1, 0)


class Elsewhere(ShardBytes):
    """Bytes that do not lie in a folder this process could give to another."""

    def __init__(self, shards: ShardBytes) -> None:
        self.reads = 0
        self._shards = shards

    def read(self, shard: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return self._shards.read(shard, offset, length)

    def close(self) -> None:
        self._shards.close()


def test_corpus_that_lies_elsewhere_is_streamed_with_one_read_a_sample(corpus, unbroken):
    corpus.shards = elsewhere = Elsewhere(corpus.shards)
    stream = corpus.stream(**BATCHES, crop="random")
    assert content(stream) == unbroken
    assert elsewhere.reads == 43
    with pytest.raises(UsageError, match="dataforge pull"):
        drawn(corpus.stream(**BATCHES, mode="processes"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 4}, "go together"),
        ({"size": 4}, "go together"),
        ({"batch_size": 0, "size": 4}, "at least 1"),
        ({"batch_size": 2, "size": (4, 0)}, "height, width"),
        ({"rank": 2, "world_size": 2}, "rank is 0"),
        ({"workers": -1}, "workers"),
        ({"mode": "fibres"}, "threads or processes"),
        ({"crop": "best"}, "centre or random"),
        ({"verify": "never"}, "first or always"),
        ({"regular_probability": 0.5}, "needs a seed"),
        ({"crop": "random"}, "needs a seed"),
        ({"seed": 0, "regular_probability": 1.0}, r"\[0, 1\)"),
        ({"seed": 0, "regular_probability": -0.1}, r"\[0, 1\)"),
        ({"seed": 0, "regular_probability": 0.5, "role": "src"}, "no regular picture"),
        ({"seed": 0, "regular_probability": 0.5, "role": "reg"}, "no photograph"),
        ({"epoch": -1}, "no place"),
    ],
)
def test_arguments_that_make_no_sense_are_one_sentence(corpus, wrong, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        corpus.stream(**wrong)
    assert str(caught.value).startswith("E501")
