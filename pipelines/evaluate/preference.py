"""A blind preference study as one folder anyone can open: static page, answers saved as a file, scored with intervals.

Both papers ran user studies: DreamMix asked which result is preferred (table 2), DreamCom had four results ranked
(table 3). `pairs` shows two methods at a time, `ranking` all of them.

    page/index.html, pictures/NNNN.png    what a person is given; no method is named in it
    key.json                              which letter was which method; kept back

Order of questions and places of methods are drawn from the seed, so the same study can be made again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from manifests.errors import UsageError
from manifests.fsops import write_atomic
from manifests.ids import digest_of
from manifests.pixels import ImageArray
from pipelines.evaluate.intervals import bootstrap, mean, wilson

__all__ = ["Group", "Preference", "score_answers", "write_page"]

Kind = Literal["pairs", "ranking"]


@dataclass(frozen=True)
class Group:
    """One question's material: results by method, the scene and a photograph of the subject, and the prompt."""

    name: str
    subject: str
    prompt: str
    results: Mapping[str, ImageArray]
    scene: ImageArray | None
    reference: ImageArray | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """How a method did. `pairs`: share of its comparisons won; `ranking`: mean place, 1 is best."""

    method: str
    value: float
    low: float
    high: float
    answers: int
    raters: int
    interval: str


def write_page(
    groups: Sequence[Group], folder: Path, *, kind: Kind, question: str, seed: int = 0, limit: int | None = None
) -> str:
    """Write the page and its key; returns the digest of the study that answers carry.

    Raises `UsageError` E502 where a group has fewer than two methods.
    """
    draw = random.Random(seed)
    questions: list[tuple[Group, list[str]]] = []
    for group in sorted(groups, key=lambda group: group.name):
        methods = sorted(group.results)
        if len(methods) < 2:
            raise UsageError(f"{group.name} has one method; a preference needs two.", code="E502")
        shown = itertools.combinations(methods, 2) if kind == "pairs" else [methods]
        questions += [(group, list(choice)) for choice in shown]
    draw.shuffle(questions)
    questions = questions[:limit]
    pictures = _Pictures(folder / "page" / "pictures")
    page, key = [], []
    for number, (group, methods) in enumerate(questions):
        draw.shuffle(methods)
        page.append(
            {
                "number": number,
                "prompt": group.prompt,
                "scene": pictures.put(group.scene),
                "reference": pictures.put(group.reference),
                "results": [pictures.put(group.results[method]) for method in methods],
            }
        )
        key.append({"number": number, "group": group.name, "subject": group.subject, "methods": methods})
    study = digest_of([kind, question, key, [pictures.digests]])[:16]
    data = {"study": study, "kind": kind, "question": question, "questions": page}
    html = (resources.files("pipelines.evaluate") / "templates" / "preference.html").read_text(encoding="utf-8")
    # `</` would end the script the data stands in
    html = html.replace("/*DATA*/", json.dumps(data, ensure_ascii=True).replace("</", "<\\/"))
    write_atomic(folder / "page" / "index.html", html.encode())
    text = json.dumps({"study": study, "kind": kind, "seed": seed, "questions": key}, indent=1)
    write_atomic(folder / "key.json", f"{text}\n".encode())
    return study


class _Pictures:
    """Pictures under numbers in the order they are first shown: neither name nor order tells a method."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, dict[str, str]()

    @property
    def digests(self) -> list[str]:
        return list(self._names)

    def put(self, image: ImageArray | None) -> str:
        import io

        from PIL import Image

        if image is None:
            return ""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=6)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        if digest not in self._names:
            self._names[digest] = f"pictures/{len(self._names):04}.png"
            write_atomic(self._folder.parent / self._names[digest], buffer.getvalue())
        return self._names[digest]


def score_answers(key_file: Path, answer_files: Sequence[Path]) -> list[Preference]:
    """Scores by method over the answers of all raters, best first.

    `pairs`: Wilson's interval for one rater, else bootstrap over raters; `ranking`: bootstrap over raters, or over
    questions for one rater. Raises `UsageError` E503 and E502 for files that are missing, broken or of another study.
    """
    key = _read(key_file, "study", "kind", "questions")
    methods_of = {entry["number"]: entry["methods"] for entry in key["questions"]}
    by_method: dict[str, dict[str, list[float]]] = {}
    for rater, path in enumerate(answer_files):
        answers = _read(path, "study", "answers")
        if answers["study"] != key["study"]:
            raise UsageError(
                f"{path.name} answers study {answers['study']}, the key is of {key['study']}.", code="E502"
            )
        for answer in answers["answers"]:
            methods = methods_of.get(answer.get("number")) if isinstance(answer, dict) else None
            order = answer.get("order") if isinstance(answer, dict) else None
            if methods is None or not isinstance(order, list) or sorted(order) != list(range(len(methods))):
                raise UsageError(f"{path.name}: {answer!r} answers no question of the study.", code="E502")
            cluster = f"rater {rater}" if len(answer_files) > 1 else f"question {answer['number']}"
            for place, chosen in enumerate(order):
                value = float(place == 0) if key["kind"] == "pairs" else float(place + 1)
                by_method.setdefault(methods[chosen], {}).setdefault(cluster, []).append(value)
    found = [_preference(method, values, key["kind"], len(answer_files)) for method, values in by_method.items()]
    return sorted(found, key=lambda one: (-one.value if key["kind"] == "pairs" else one.value, one.method))


def _preference(method: str, values: dict[str, list[float]], kind: str, raters: int) -> Preference:
    flat = [value for cluster in values.values() for value in cluster]
    if kind == "pairs" and raters == 1:
        low, high = wilson(sum(flat), len(flat))
        interval = "Wilson, 95 %"
    else:
        low, high = bootstrap(values)
        interval = f"bootstrap over {'raters' if raters > 1 else 'questions'}, 95 %"
    return Preference(
        method=method, value=mean(flat), low=low, high=high, answers=len(flat), raters=raters, interval=interval
    )


def _read(path: Path, *fields: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", code="E503") from error
    except ValueError as error:
        raise UsageError(f"{path.name} is not JSON.", code="E502") from error
    if not isinstance(value, dict) or any(field not in value for field in fields):
        raise UsageError(f"{path.name}: {', '.join(fields)} were expected.", code="E502")
    return value
