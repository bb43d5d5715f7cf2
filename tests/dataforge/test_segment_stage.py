"""The segment stage keeps what the segmenter gave: the mask, why to doubt it, and the hypothesis that lost."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dataforge.protocols import Grounding, Photo, Scope, Segmentation
from dataforge.stages import blobs as stage_blobs
from dataforge.stages.blobs import Blobs
from dataforge.stages.segment import Segment
from dataforge.store import Made, Store, write_part
from manifests.pixels import decode_mask, encode_image, mask_from_box


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
