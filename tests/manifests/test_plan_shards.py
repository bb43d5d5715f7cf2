"""Cutting shards: between subjects, near the target, and so that one changed subject moves few cuts."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from manifests.ids import sha256_hex
from manifests.records import MemberRef
from manifests.shards import shard_digest, shard_size
from manifests.writer import UnpackedSample, plan_shards
from tests.manifests.corpora import make

TARGET = 200_000
TEMPLATE = make("a", "src", 1).sample


def photographs(owner: str, count: int, *, split: str = "train", version: int = 0) -> list[UnpackedSample]:
    """Samples that claim 3 to 7 kB of bytes, which nobody reads."""
    samples = []
    for number in range(count):
        digest = sha256_hex(f"{owner} {number} {version}".encode())
        image = MemberRef(shard="", offset=0, length=3000 + int(digest[:3], 16), format="webp", sha256=digest)
        role = "bg" if owner == "scenes" else "src"
        sample = replace(
            TEMPLATE,
            id=f"{owner}/{role}-{digest[:12]}",
            subject=owner,
            role=role,
            split=split,
            image=image,
            mask=replace(image, length=300, format="png"),
        )
        samples.append(UnpackedSample(sample, lambda: b"", lambda: b""))
    return samples


def plan(owners: dict[str, list[UnpackedSample]], target: int = TARGET) -> dict[str, tuple[int, list[str]]]:
    """Shards by name: their size and the IDs in them."""
    samples = sorted((item for several in owners.values() for item in several), key=lambda item: item.sample.id)
    return {
        f"{name}-{shard_digest(members)[:16]}": (shard_size(members), [member.key for member in members])
        for name, members in plan_shards(samples, target)
    }


@pytest.fixture(scope="module")
def two_hundred() -> dict[str, list[UnpackedSample]]:
    rng = random.Random(1)
    return {f"subject-{n:03d}": photographs(f"subject-{n:03d}", rng.randint(1, 6)) for n in range(200)}


def test_no_subject_is_cut_and_nothing_is_lost_or_doubled(two_hundred):
    shards = plan(two_hundred)
    owners = [{key.partition("/")[0] for key in keys} for _, keys in shards.values()]
    assert max(Counter(owner for several in owners for owner in several).values()) == 1
    packed = sorted(key for _, keys in shards.values() for key in keys)
    assert packed == sorted(item.sample.id for several in two_hundred.values() for item in several)


def test_shards_are_near_the_target(two_hundred):
    for target in (100_000, 200_000, 400_000):
        sizes = [size for size, _ in plan(two_hundred, target).values()]
        assert max(sizes) <= target
        assert 0.4 * target < sum(sizes) / len(sizes)
        # only the last shard may be smaller than a quarter, or one cut before a subject that would not fit
        assert sum(size < target / 4 for size in sizes) <= 0.1 * len(sizes)


def test_subject_larger_than_the_target_has_a_shard_of_its_own_whole():
    shards = plan({"big": photographs("big", 60), "small": photographs("small", 1)}, 50_000)
    assert sorted(len(keys) for _, keys in shards.values()) == [1, 60]


@pytest.mark.parametrize("kind", ["added", "changed", "removed"])
def test_one_other_subject_among_two_hundred_leaves_nearly_all_shards(two_hundred, kind):
    """Tried at every tenth place: how many of the old shards are gone, and how many are new.

    A plan that fills shards one after another loses half of them on average.
    """
    before = set(plan(two_hundred))
    gone, new = [], []
    for number in range(0, 200, 10):
        owners = dict(two_hundred)
        if kind == "added":
            owners[f"subject-{number:03d}x"] = photographs(f"subject-{number:03d}x", 4)
        elif kind == "changed":
            owners[f"subject-{number:03d}"] = photographs(f"subject-{number:03d}", 5, version=1)
        else:
            del owners[f"subject-{number:03d}"]
        after = set(plan(owners))
        gone.append(len(before - after))
        new.append(len(after - before))
    print(f"{kind}: of {len(before)} shards gone {sorted(Counter(gone).items())}, new {sorted(Counter(new).items())}")
    assert len(before) > 40
    for counts in (gone, new):
        assert sum(counts) / len(counts) <= 2
        assert max(counts) <= 5


def test_plan_is_the_same_every_time_and_does_not_depend_on_how_subjects_are_listed(two_hundred):
    names = list(two_hundred)
    random.Random(5).shuffle(names)
    assert list(plan({name: two_hundred[name] for name in names})) == list(plan(two_hundred))


def test_scenes_and_splits_never_mix():
    owners = {
        f"subject-{n:02d}": photographs(f"subject-{n:02d}", 3, split="validation" if n % 3 == 0 else "train")
        for n in range(30)
    }
    owners["scenes"] = photographs("scenes", 9)
    split_of = {item.sample.id: item.sample.split for several in owners.values() for item in several}
    shards = plan(owners, 40_000)
    for name, (_, keys) in shards.items():
        kinds = {"scenes" if key.startswith("scenes/") else split_of[key] for key in keys}
        assert kinds == {name.partition("-")[0]}
    assert {name.partition("-")[0] for name in shards} == {"scenes", "train", "validation"}


def test_subjects_stay_together_where_one_name_begins_with_another():
    owners = {name: photographs(name, 3) for name in ("mug", "mug-2", "mug_2", "mugs")}
    for _, keys in plan(owners, 15_000).values():
        for owner in {key.partition("/")[0] for key in keys}:
            assert sum(key.startswith(f"{owner}/") for key in keys) == 3
