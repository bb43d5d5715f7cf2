"""The segment stage keeps what the segmenter gave: the mask, why to doubt it, and the hypothesis that lost."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

import manifests
from dataforge import build
from dataforge.protocols import Grounding, Photo, Scope, Segmentation
from dataforge.stages import blobs as stage_blobs
from dataforge.stages.blobs import Blobs
from dataforge.stages.segment import Segment
from dataforge.store import Made, Store, write_part
from manifests.pixels import decode_mask, encode_image, mask_from_box
from tests.conftest import draw_mask, draw_photograph


class Split:
    """Chooses the left half, and weighed an ellipse and a speck."""

    name, model, version = "split", "", "1"
    scope: Scope = "sample"

    def __init__(self, rival: np.ndarray | None) -> None:
        self.rival = rival

    def segment(self, photos: Sequence[Photo], groundings: Sequence[Grounding]) -> list[Segmentation]:
        height, width = photos[0].image.shape[:2]
        return [
            Segmentation(mask=mask_from_box((0, 0, width // 2, height), height, width), quality=0.5, rival=self.rival)
        ]


class Memory(Blobs):
    """Pictures from memory."""

    def photo(self, value):
        return Photo(id="a/src-0", subject="a", class_noun="thing", image=value)


def made(rival: np.ndarray | None):
    image = np.zeros((90, 120, 3), np.uint8)
    box = {"box": [0, 0, 120, 90], "score": 0.5, "other_boxes": []}
    return Segment(Split(rival), Memory(None)).run([{"photos": [image], "groundings": [box]}])[0]


def test_outline_of_the_rival_encloses_its_largest_region():
    rival = np.zeros((90, 120), np.uint8)
    cv2.ellipse(rival, (70, 40), (30, 20), 0, 0, 360, 1, -1)
    rival[85:88, 2:5] = 1
    answer = made(rival > 0)
    points = np.array(answer.value["items"][0]["rival"]).reshape(-1, 1, 2)
    filled = cv2.fillPoly(np.zeros((90, 120), np.uint8), [points], 1) > 0
    rival[85:88, 2:5] = 0
    assert (filled & (rival > 0)).sum() / (filled | (rival > 0)).sum() > 0.97
    assert len(points) < 80  # a few dozen points, not one per pixel
    assert decode_mask(answer.blobs["0"])[:, :60].all()


def test_without_a_rival_the_outline_is_empty():
    assert made(None).value["items"][0]["rival"] == []
    assert made(np.zeros((90, 120), bool)).value["items"][0]["rival"] == []


def test_a_worker_keeps_a_few_pictures_and_more_only_while_they_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_blobs, "CACHED_BYTES", 6 * 16 * 16 * 3)
    store = Store(tmp_path)
    for side, kept in ((16, 6), (64, stage_blobs.CACHED_IMAGES)):
        images = {str(number): encode_image(np.full((side, side, 3), number, np.uint8))[0] for number in range(8)}
        store.register(write_part(tmp_path, "ingest", side, [(f"of {side}", Made({}, images))]))
        blobs = Blobs(tmp_path)
        for ref in store.outcome("ingest", f"of {side}").blobs.values():
            blobs.image(ref.place, "webp")
        assert len(blobs._images) == kept
    store.close()


def test_a_prefetched_unit_is_not_decoded_twice(tmp_path, monkeypatch):
    """Of a unit that is larger than what a worker keeps, the first pictures are still there when it begins."""
    monkeypatch.setattr(stage_blobs, "CACHED_BYTES", 6 * 16 * 16 * 3)
    decoded: list[int] = []
    decode = stage_blobs.decode_image
    monkeypatch.setattr(stage_blobs, "decode_image", lambda data, name: (decoded.append(1), decode(data, name))[1])
    store = Store(tmp_path)
    images = {str(number): encode_image(np.full((16, 16, 3), number, np.uint8))[0] for number in range(16)}
    store.register(write_part(tmp_path, "ingest", 1, [("key", Made({}, images))]))
    photos = [{"image": ref.place, "format": "webp"} for ref in store.outcome("ingest", "key").blobs.values()]
    blobs = Blobs(tmp_path)
    blobs.prefetch([{"photos": photos[:8]}, {"photos": photos[8:]}])
    assert len(decoded) == 6
    for photo in photos:
        blobs.image(photo["image"], photo["format"])
    assert len(decoded) == 16
    store.close()


def test_each_photograph_has_the_measures_of_its_own_mask(photographs, tmp_path, quick):
    """They are not kept while a build runs, but read from the stage's answers; a given mask has none."""
    draw_photograph(photographs / "mug" / "image" / "00.jpg", colour=(9, 9, 200), seed=1)
    draw_mask(photographs / "mug" / "mask" / "00.png")
    build(photographs, tmp_path / "corpus", quick, workers=0)
    answers, most = {}, 0
    store = Store(tmp_path / "corpus" / ".work")
    keys = store._connection.execute("SELECT key FROM result WHERE stage = 'segment'").fetchall()
    for outcome in store.outcomes("segment", [key for (key,) in keys]):
        most = max(most, len(outcome.value["items"]))
        for number, item in enumerate(outcome.value["items"]):
            answers[outcome.blobs[str(number)].sha256] = item
    store.close()
    assert most == 5  # one answer for all photographs of a subject
    with manifests.open(str(tmp_path / "corpus")) as corpus:
        samples = list(corpus.samples(role="src"))
        given = [sample for sample in samples if sample.mask.sha256 not in answers]
        for sample in samples:
            item = answers.get(sample.mask.sha256, {"scores": {}, "rival": []})
            assert {score.name: score.value for score in sample.scores} == item["scores"]
            assert list(sample.rival_outline) == item["rival"]
        assert [sample.source_uri for sample in given] == ["mug/image/00.jpg"]
        assert len({sample.scores for sample in samples}) > 10
        assert any(sample.rival_outline for sample in samples)
