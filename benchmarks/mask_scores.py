"""How good the masks of a corpus are: `python benchmarks/mask_scores.py CORPUS TRUTH [--sheet worst.png]`.

Reads nothing but the files of a corpus and true masks. TRUTH is a folder of masks (`cat/00.png` for the photograph
`cat/00.jpg`) or the root of MureCom (`Dog/fg1/0.png` beside `Dog/fg1/0.jpg`). Every photograph with a true mask is
scored: one that the build did not keep counts as an IoU of 0.

`python benchmarks/mask_scores.py --build WORKDIR` first builds four corpora of DATAFORGE_TEST_DATA (default:
../shared/data beside the repository) below WORKDIR, which must not exist, and scores each:

    dreambench        dataforge build DATA/dreambench/subjects --set generate.images_per_photograph=0
    dreambench-boxes  the same photographs, with the box of each true mask in overrides.yaml
    murecom           dataforge build DATA/murecom --set ingest.use_given_masks=false
    murecom-boxes     the same photographs, with the box of each true mask in overrides.yaml
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

import manifests
from manifests.pixels import ImageArray, MaskArray, box_from_mask
from manifests.records import Sample

DATA = Path(os.environ.get("DATAFORGE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
GOOD = 0.75
TILE = 256


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One photograph: where it was found, its true mask, what the corpus holds of it, and the IoU of its mask."""

    place: str
    truth: Path
    sample: Sample | None
    iou: float
    sentence: str = ""


def read_mask(path: Path) -> MaskArray:
    found = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if found is None:
        raise SystemExit(f"{path} cannot be read as a mask.")
    return np.asarray(found) > 127


def iou(mask: MaskArray, truth: MaskArray) -> float:
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def auroc(score: list[float], good: list[bool]) -> float:
    """Chance that a good mask scores higher than a bad one."""
    above = np.array([s for s, g in zip(score, good, strict=True) if g])
    below = np.array([s for s, g in zip(score, good, strict=True) if not g])
    if not len(above) or not len(below):
        return float("nan")
    return float((above[:, None] > below).mean() + 0.5 * (above[:, None] == below).mean())


def score(corpus: manifests.Corpus, truths: Path) -> list[Scored]:
    """Every photograph that the build found and that has a true mask, in order of its place."""
    rows: list[Scored] = []
    kept = {sample.source_uri: sample for sample in corpus.samples(role="src")}
    for row in corpus.ledger:
        truth = truths / Path(row.path).with_suffix(".png")
        if row.kind != "photograph" or row.status in ("alias", "ignored") or not truth.is_file():
            continue
        sample = kept.get(row.path)
        if sample is None:
            rows.append(Scored(place=row.path, truth=truth, sample=None, iou=0.0, sentence=row.code or row.sentence))
            continue
        mask, true = corpus.mask(sample), read_mask(truth)
        if true.shape != mask.shape:
            size = mask.shape[1], mask.shape[0]
            true = cv2.resize(true.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        rows.append(Scored(place=row.path, truth=truth, sample=sample, iou=iou(mask, true)))
    return sorted(rows, key=lambda scored: scored.place)


def summary(rows: list[Scored]) -> str:
    ious = np.array([row.iou for row in rows])
    good = [bool(value >= GOOD) for value in ious]
    quality = [row.sample.mask_quality if row.sample else 0.0 for row in rows]
    unflagged = [g for g, row in zip(good, rows, strict=True) if row.sample and not row.sample.flags]
    of_which = f"{np.mean(unflagged):.3f}" if unflagged else "nan"
    return (
        f"photographs {len(rows)} (not kept {sum(row.sample is None for row in rows)})  mean IoU {ious.mean():.3f}"
        f"  good {np.mean(good):.3f}  unflagged {len(unflagged) / len(rows):.3f}  of which good {of_which}"
        f"  AUROC {auroc(quality, good):.3f}"
    )


def tile(corpus: manifests.Corpus, row: Scored) -> ImageArray:
    """A photograph with the outlines of its mask (red) and of the truth (green), and what the corpus says of it."""
    truth = read_mask(row.truth)
    picture = np.full((*truth.shape, 3), 90, np.uint8) if row.sample is None else corpus.image(row.sample).copy()
    lines = (
        [(truth, (0, 255, 0))] if row.sample is None else [(truth, (0, 255, 0)), (corpus.mask(row.sample), (255, 0, 0))]
    )
    scale = TILE / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for mask, colour in lines:
        shown = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        cv2.drawContours(small, cv2.findContours(shown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0], -1, colour, 2)
    canvas = np.full((TILE + 42, TILE, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = small
    told = f"not kept {row.sentence}" if row.sample is None else ",".join(row.sample.flags) or "no flags"
    quality = "" if row.sample is None else f" quality {row.sample.mask_quality:.2f}"
    for number, text in enumerate((row.place, f"IoU {row.iou:.2f}{quality}", told)):
        at = 3, TILE + 11 + 13 * number
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def write_sheet(corpus: manifests.Corpus, rows: list[Scored], path: Path, worst: int = 20, across: int = 5) -> None:
    tiles = [tile(corpus, row) for row in sorted(rows, key=lambda row: (row.iou, row.place))[:worst]]
    while len(tiles) % across:
        tiles.append(np.full((TILE + 42, TILE, 3), 255, np.uint8))
    lines = [np.concatenate(tiles[start : start + across], axis=1) for start in range(0, len(tiles), across)]
    if not cv2.imwrite(str(path), np.ascontiguousarray(np.concatenate(lines)[..., ::-1])):
        raise SystemExit(f"{path} cannot be written.")


def with_boxes(photographs: Path, masks: Path, target: Path) -> None:
    """Copies of the photographs that have a mask, each subject with an overrides.yaml that gives the true boxes."""
    for folder in sorted({file.parent for file in photographs.rglob("*.jpg")}):
        inside = folder.relative_to(photographs)
        if folder.name == "bg":
            # a class of MureCom is known by its scenes
            shutil.copytree(folder, target / inside)
            continue
        boxes: dict[str, Any] = {}
        for file in sorted(folder.glob("*.jpg")):
            truth = masks / inside / f"{file.stem}.png"
            if truth.is_file():
                (target / inside).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / inside / file.name)
                boxes[file.name] = list(box_from_mask(read_mask(truth)))
        if boxes:
            (target / inside / "overrides.yaml").write_text(yaml.safe_dump({"boxes": boxes}), encoding="utf-8")


def build(workdir: Path) -> list[tuple[Path, Path]]:
    """The four corpora below a new folder, each with the place of its true masks."""
    workdir.mkdir(parents=True)
    dreambench, murecom = DATA / "dreambench" / "subjects", DATA / "murecom"
    dreambench_masks = DATA / "dreambench" / "masks"
    with_boxes(dreambench, dreambench_masks, workdir / "photographs" / "dreambench")
    with_boxes(murecom, murecom, workdir / "photographs" / "murecom")
    built = []
    for name, photographs, masks, own in (
        ("dreambench", dreambench, dreambench_masks, True),
        ("dreambench-boxes", workdir / "photographs" / "dreambench", dreambench_masks, True),
        ("murecom", murecom, murecom, False),
        ("murecom-boxes", workdir / "photographs" / "murecom", murecom, False),
    ):
        command = [sys.executable, "-m", "dataforge", "build", str(photographs), "-o", str(workdir / name)]
        command += ["--set", "generate.images_per_photograph=0"]
        command += [] if own else ["--set", "ingest.use_given_masks=false"]
        # exit 3 says that more files than usual were not kept: such photographs are scored like all others
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode not in (0, 3):
            raise SystemExit(f"{' '.join(command)} failed.")
        built.append((workdir / name, masks))
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="folder of a corpus")
    parser.add_argument("truth", type=Path, nargs="?", help="folder of true masks")
    parser.add_argument("--sheet", type=Path, help="write a picture of the 20 worst masks")
    parser.add_argument("--verbose", action="store_true", help="a line for every photograph")
    parser.add_argument("--build", type=Path, metavar="WORKDIR", help="build and score the four corpora")
    arguments = parser.parse_args()
    if arguments.build is None and (arguments.corpus is None or arguments.truth is None):
        parser.error("give CORPUS and TRUTH, or --build WORKDIR")
    asked = build(arguments.build) if arguments.build else [(arguments.corpus, arguments.truth)]
    for place, truths in asked:
        with manifests.open(place) as corpus:
            rows = score(corpus, truths)
            if not rows:
                raise SystemExit(f"{truths} holds no mask for a photograph of {place}.")
            if arguments.verbose:
                for row in rows:
                    told = row.sentence if row.sample is None else ",".join(row.sample.flags)
                    quality = 0.0 if row.sample is None else row.sample.mask_quality
                    print(f"    {row.place:32s} IoU {row.iou:.3f}  quality {quality:.3f}  {told}")
            print(f"{place.name:18s} {summary(rows)}")
            sheet = arguments.sheet
            if arguments.build and arguments.sheet:
                sheet = arguments.sheet.with_name(f"{arguments.sheet.stem}-{place.name}{arguments.sheet.suffix}")
            if sheet:
                write_sheet(corpus, rows, sheet)


if __name__ == "__main__":
    main()
