"""The stages in order: what each is asked, and what its answers change. Read `Flow.run` from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from dataforge import __version__
from dataforge.backends import backend_class, model_identity
from dataforge.config import Limits, Recipe, Section
from dataforge.executor import Resources
from dataforge.ingest.sources import Inputs, PhotographSource, SceneSource
from dataforge.regular import Order, class_orders, own_pixel_orders
from dataforge.runner import Runner, Task
from dataforge.samples import Picture, WorkingSubject
from dataforge.stages.blobs import photo_input
from dataforge.stages.compose import instance_prompt
from dataforge.stages.gate import assign_splits, flag_near_duplicates, judge, judge_again, reject_made_twice
from dataforge.store import BlobRef, Outcome
from dataforge.words import corrected_words
from manifests.errors import CODES, Fault
from manifests.ids import SCENES, digest_of, sample_id
from manifests.overrides import check_box
from manifests.pixels import encode_mask, mask_from_box
from manifests.records import Attribute, Box, Provenance, RegularPrompt, SubjectAttribute
from manifests.schema import decode, encode

__all__ = ["STAGE_VERSIONS", "Flow"]

# raised when a stage gives other results for the same inputs and settings, so that old results are not taken for new
STAGE_VERSIONS = {
    "ingest": 1,
    "ingest-mask": 1,
    "ground": 1,
    "segment": 2,
    "describe": 1,
    "compose": 1,
    "write": 1,
    "generate": 2,
    "recheck": 1,
}


# stages whose results also depend on a backend and its version, and the role it plays there
ROLES = {
    "ground": "ground",
    "segment": "segment",
    "describe": "describe",
    "write": "describe",
    "generate": "generate",
    "recheck": "recheck",
}


# what a prompt's template says when a model wrote it
WRITTEN = "vlm"
# a unit's wall time where a model may have to be loaded from a slow disk first
MODEL_UNIT_S = 3600.0


class Flow:
    """One build's way from inputs to pictures and subjects that are ready to be packed."""

    def __init__(self, inputs: Inputs, recipe: Recipe, runner: Runner) -> None:
        self._recipe = recipe
        # the part of the ingest settings that decides pixels; the rest decides what is done with them
        self._pixels = recipe.ingest.model_copy(
            update={"use_given_masks": True, "use_given_boxes": True, "near_duplicate_bits": 0}
        )
        self._runner = runner
        self._identities = {role: model_identity(section) for role, section in recipe.sections().items()}
        self.subjects = [WorkingSubject(source) for source in inputs.subjects]
        for subject in self.subjects:
            source = subject.source
            prompt = instance_prompt(recipe.compose, source.class_noun)
            subject.photographs = [
                Picture("src", source.slug, source.class_noun, photo, prompt=prompt) for photo in source.photographs
            ]
        self.scenes = [Picture("bg", SCENES, scene.class_noun, scene) for scene in inputs.scenes]
        self.photographs = [photo for subject in self.subjects for photo in subject.photographs]
        self.regular: list[Picture] = []
        self.mask_faults: dict[str, Fault] = {}

    def run(self, *, rehash: bool = False) -> None:
        """All stages in order; afterwards every picture is kept, an alias, or has its fault."""
        recipe = self._recipe
        self._ingest(rehash=rehash)
        self._ingest_masks(rehash=rehash)
        self._aim_scenes()
        self._ground(self.photographs)
        self._segment(self.photographs)
        judge(self.photographs, recipe.gate)
        self._describe()
        self._compose()
        self._generate()
        self._ground(self.regular)
        self._segment(self.regular)
        judge(self.regular, recipe.gate)
        self._recheck()
        reject_made_twice(self.regular, recipe.gate)
        linked = flag_near_duplicates(self.photographs, recipe.ingest.near_duplicate_bits)
        assign_splits(self.subjects, linked, recipe.split)

    @property
    def pictures(self) -> list[Picture]:
        """Every picture there is, in no special order."""
        return [*self.photographs, *self.scenes, *self.regular]

    # each stage: what it is asked, then what its answers change --------------------------------------------------

    def _ingest(self, *, rehash: bool) -> None:
        ingest = self._recipe.ingest
        found = [*self.photographs, *self.scenes]
        tasks = []
        for picture in found:
            file = _source(picture).file
            facts = {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
            tasks.append(Task(self._key("ingest", self._pixels, facts), facts))
        resources = _decoding(ingest.limits)
        outcomes = self._runner.run(
            "ingest", ingest.model_dump(mode="json"), tasks, batch=8, resources=resources, fresh=rehash
        )
        taken: dict[str, Picture] = {}
        owners: dict[str, str] = {}
        for picture, task in zip(found, tasks, strict=True):
            outcome = outcomes[task.key]
            if outcome.fault:
                picture.fault = outcome.fault
                continue
            value = outcome.value
            picture.source_sha256, picture.notes = value["sha256"], tuple(value["notes"])
            name = sample_id(picture.owner, picture.role, picture.source_sha256)
            first = taken.setdefault(name, picture)
            if first is not picture and first.source_sha256 == picture.source_sha256:
                picture.alias_of = name
                continue
            if first is not picture:
                picture.fault = Fault("E171", f"{_source(first).file.path} has the ID {name}")
                continue
            picture.id, picture.image, picture.format = name, outcome.blobs["image"], value["format"]
            picture.width, picture.height = value["width"], value["height"]
            picture.perceptual_hash = int(value["perceptual_hash"], 16)
            picture.provenance.append(self._provenance("ingest", ingest, ["dataforge", "", __version__]))
            if picture.role == "src":
                other = owners.setdefault(picture.source_sha256, picture.owner)
                if other != picture.owner:
                    picture.flags.append("in-two-subjects")
                    picture.notes += (f"E170 {CODES['E170'].slug}: also in {other}",)

    def _ingest_masks(self, *, rehash: bool) -> None:
        ingest = self._recipe.ingest
        masked: list[tuple[Picture, PhotographSource, Task]] = []
        for picture in self.photographs:
            source = picture.source
            if not (picture.alive and isinstance(source, PhotographSource) and source.mask is not None):
                continue
            if ingest.use_given_masks or source.mask_by == "override":
                file = source.mask
                facts = {
                    "path": file.path,
                    "size": file.size,
                    "mtime_ns": file.mtime_ns,
                    "width": picture.width,
                    "height": picture.height,
                }
                masked.append((picture, source, Task(self._key("ingest-mask", self._pixels, facts), facts)))
        resources = _decoding(ingest.limits)
        tasks = [task for _, _, task in masked]
        outcomes = self._runner.run(
            "ingest-mask", ingest.model_dump(mode="json"), tasks, batch=16, resources=resources, fresh=rehash
        )
        for picture, source, task in masked:
            outcome = outcomes[task.key]
            if outcome.fault:
                assert source.mask is not None
                self.mask_faults[source.mask.path] = outcome.fault
                picture.flags.append("given-mask-refused")
                continue
            picture.mask, picture.mask_quality = outcome.blobs["mask"], 1.0
            picture.mask_area, picture.box = outcome.value["area"], _box(outcome.value["box"])
            picture.box_score = 1.0
            picture.provenance.append(self._provenance("segment", ingest, [source.mask_by, "", __version__]))

    def _aim_scenes(self) -> None:
        """A scene's box is the default place to paint into; its mask is that box."""
        for picture in self.scenes:
            if not picture.alive:
                continue
            given = _source(picture).box
            width, height = picture.width, picture.height
            if given is None:
                box: Box | Fault = (width // 4, height // 4, width - width // 4, height - height // 4)
                picture.flags.append("default-box")
            else:
                box = _inside(given, width, height)
            if isinstance(box, Fault):
                picture.fault = box
                continue
            mask = mask_from_box(box, height, width)
            picture.box, picture.box_score, picture.mask_quality = box, 1.0, 1.0
            picture.made_mask, picture.mask_area = encode_mask(mask), float(mask.mean())

    def _ground(self, pictures: Iterable[Picture]) -> None:
        section = self._recipe.ground
        asked: list[Picture] = []
        for picture in pictures:
            source = picture.source
            if not picture.alive or picture.mask is not None:
                continue
            given = source.box if isinstance(source, PhotographSource) else None
            if not isinstance(source, PhotographSource) or given is None:
                asked.append(picture)
                continue
            if not self._recipe.ingest.use_given_boxes and source.box_by != "override":
                asked.append(picture)
                continue
            box = _inside(given, picture.width, picture.height)
            if isinstance(box, Fault):
                picture.fault = box
                continue
            picture.box, picture.box_score = box, 1.0
            picture.provenance.append(self._provenance("ground", self._recipe.ingest, [source.box_by, "", __version__]))
        for group, outcome in self._by_group("ground", section, asked, lambda photo: {}):
            for picture, item in zip(group, outcome.value["items"], strict=True):
                if "fault" in item:
                    picture.fault = Fault(*item["fault"])
                    continue
                picture.box, picture.box_score = _box(item["box"]), item["score"]
                picture.other_boxes = tuple(_box(box) for box in item["other_boxes"])
                picture.provenance.append(self._provenance("ground", section, outcome.value["by"]))
                if "segmentation" in item and section.kind == self._recipe.segment.kind:
                    facts, mask = item["segmentation"], outcome.blobs[str(group.index(picture))]
                    self._take_mask(picture, mask, facts, outcome.value["by"])

    def _segment(self, pictures: Iterable[Picture]) -> None:
        section = self._recipe.segment

        def grounding(picture: Picture) -> dict[str, Any]:
            others = [list(box) for box in picture.other_boxes]
            return {"box": list(picture.the_box()), "score": picture.box_score, "other_boxes": others}

        asked = [picture for picture in pictures if picture.alive and picture.mask is None]
        for group, outcome in self._by_group("segment", section, asked, grounding):
            for number, (picture, item) in enumerate(zip(group, outcome.value["items"], strict=True)):
                if "fault" in item:
                    picture.fault = Fault(*item["fault"])
                    continue
                self._take_mask(picture, outcome.blobs[str(number)], item, outcome.value["by"])

    def _take_mask(self, picture: Picture, mask: BlobRef, facts: dict[str, Any], by: list[str]) -> None:
        picture.mask, picture.mask_area = mask, facts["area"]
        picture.mask_quality = facts["quality"]
        picture.scores = picture.scores | facts["scores"]
        picture.doubts = tuple(facts["flags"])
        picture.rival_outline = tuple(facts["rival"])
        if picture.box_score < 1.0:
            picture.box = _box(facts["box"])
        picture.provenance.append(self._provenance("segment", self._recipe.segment, by))

    def _by_group(
        self, stage: str, section: Section, pictures: Sequence[Picture], extra: Callable[[Picture], dict[str, Any]]
    ) -> Iterable[tuple[list[Picture], Outcome]]:
        """Run a stage over pictures, one task each or one task per owner, as its backend's `scope` wants.

        A task that failed as a whole ends the way of all its pictures and is not passed on.
        """
        whole = backend_class(stage, section.model_dump()["kind"]).scope == "subject"
        ordered = sorted(pictures, key=lambda picture: picture.id)
        groups = (
            [list(group) for _, group in groupby(ordered, key=lambda p: p.owner)] if whole else [[p] for p in ordered]
        )
        tasks = []
        for group in groups:
            value: dict[str, Any] = {"photos": [_photo(picture) for picture in group]}
            extras = [extra(picture) for picture in group]
            if stage == "segment":
                value["groundings"] = extras
            depends = [[p.image_ref().sha256, p.class_noun, more] for p, more in zip(group, extras, strict=True)]
            tasks.append(Task(self._key(stage, section, depends), value, weight=len(group)))
        outcomes = self._runner.run(
            stage,
            section.model_dump(mode="json"),
            tasks,
            batch=1 if whole else _batch(section, 8),
            resources=_resources(section),
        )
        for group, task in zip(groups, tasks, strict=True):
            outcome = outcomes[task.key]
            if outcome.fault is None:
                yield group, outcome
                continue
            for picture in group:
                picture.fault = outcome.fault

    def _describe(self) -> None:
        section = self._recipe.describe
        tasks: dict[str, Task] = {}
        for subject in self.subjects:
            kept = subject.kept()
            if kept:
                value = {
                    "photos": [_photo(photo) for photo in kept],
                    "masks": [photo.mask_ref().place for photo in kept],
                }
                depends = [[p.id, p.class_noun, p.image_ref().sha256, p.mask_ref().sha256] for p in kept]
                tasks[subject.slug] = Task(self._key("describe", section, depends), value)
        outcomes = self._runner.run(
            "describe",
            section.model_dump(mode="json"),
            tasks.values(),
            batch=_batch(section, 1),
            resources=_resources(section),
        )
        for subject in self.subjects:
            outcome = outcomes[tasks[subject.slug].key] if subject.slug in tasks else None
            if outcome is None:
                continue
            words: list[SubjectAttribute] = []
            by, captions = ["none", "", __version__], {}
            if outcome.fault:  # the photographs are still good: they go on without words, flagged
                for photo in subject.kept():
                    photo.flags.append("not-described")
            else:
                by, captions = outcome.value["by"], outcome.value["captions"]
                words = [decode(SubjectAttribute, word, where="describe") for word in outcome.value["words"]]
            subject.words = corrected_words(words, subject.source.overrides, [photo.id for photo in subject.kept()])
            for photo in subject.kept():
                source = photo.source
                said = source.caption if isinstance(source, PhotographSource) else None
                photo.caption = said if said is not None else captions.get(photo.id, "")
                photo.attributes = tuple(
                    Attribute(category=w.category, word=w.word, score=w.score, origin=w.origin)
                    for w in subject.words
                    if w.origin == "source" and photo.id in w.sample_ids
                )
                photo.provenance.append(self._provenance("describe", section, by))

    def _compose(self) -> None:
        section, generate = self._recipe.compose, self._recipe.generate
        generator = backend_class("generate", generate.generator.kind)
        tasks: dict[str, Task] = {}
        for subject in self.subjects:
            showable = None
            if generator.own_pixels:
                showable = [[w.category, w.word] for w in subject.words if generator.can_show(w.category, w.word)]
            words = [{**encode(word), "sample_ids": []} for word in subject.words]
            value = {"class_noun": subject.source.class_noun, "words": words, "showable": showable}
            tasks[subject.slug] = Task(self._key("compose", section, value), value)
        outcomes = self._runner.run(
            "compose", section.model_dump(mode="json"), tasks.values(), batch=64, resources=Resources()
        )
        for subject in self.subjects:
            outcome = outcomes[tasks[subject.slug].key]
            prompts = [] if outcome.fault else outcome.value["prompts"]
            subject.prompts = tuple(decode(RegularPrompt, prompt, where="compose") for prompt in prompts)
        if section.kind == "vlm":
            self._write_prompts()

    def _write_prompts(self) -> None:
        """Have the describer's model write each prompt anew; the template's stays where it fails to hold its words."""
        section = self._recipe.describe
        tasks: dict[tuple[str, str], Task] = {}
        for subject in self.subjects:
            noun = subject.source.class_noun
            for prompt in subject.prompts:
                value = {"class_noun": noun, "words": [word.word for word in prompt.words]}
                tasks[noun, prompt.prompt] = Task(self._key("write", section, value), value)
        outcomes = self._runner.run(
            "write",
            section.model_dump(mode="json"),
            {task.key: task for task in tasks.values()}.values(),
            batch=_batch(section, 1),
            resources=_resources(section),
        )
        for subject in self.subjects:
            noun, prompts = subject.source.class_noun, []
            for prompt in subject.prompts:
                outcome = outcomes[tasks[noun, prompt.prompt].key]
                if outcome.fault is None:
                    prompt = replace(prompt, prompt=outcome.value["prompt"], template=WRITTEN)
                prompts.append(prompt)
            subject.prompts = tuple(prompts)

    def _generate(self) -> None:
        section = self._recipe.generate
        if backend_class("generate", section.generator.kind).own_pixels:
            orders = list(own_pixel_orders(self.subjects, self.scenes, section))
        else:
            orders = list(class_orders(self.subjects, section))
        tasks = [Task(self._key("generate", section.generator, order.depends), order.task_input) for order in orders]
        outcomes = self._runner.run(
            "generate",
            section.model_dump(mode="json"),
            tasks,
            batch=_batch(section.generator, 4),
            resources=_resources(section.generator),
        )
        for order, task in zip(orders, tasks, strict=True):
            picture = self._made_picture(order, task.key, outcomes[task.key])
            self.regular.append(picture)
            for subject in order.subjects:
                subject.regular_ids.append(picture.id)

    def _made_picture(self, order: Order, key: str, outcome: Outcome) -> Picture:
        section = self._recipe.generate
        picture = Picture("reg", order.owner, order.class_noun, id=sample_id(order.owner, "reg", key))
        picture.prompt = picture.caption = order.prompt.prompt
        picture.attributes, picture.own_pixels = order.attributes, order.own_pixels
        if outcome.fault:
            picture.fault = outcome.fault
            return picture
        value = outcome.value
        picture.image, picture.format = outcome.blobs["image"], value["format"]
        picture.width, picture.height, picture.parents = (
            value["width"],
            value["height"],
            (*value["parents"], *order.scene_ids),
        )
        picture.scores = value["scores"]
        picture.perceptual_hash = int(value["perceptual_hash"], 16)
        compose, writer = self._recipe.compose, ["dataforge", "", __version__]
        if order.prompt.template == WRITTEN:
            describe = self._recipe.describe
            writer = [describe.kind, self._identities["describe"], backend_class("describe", describe.kind).version]
        picture.provenance.append(self._provenance("compose", compose, writer, compose.seed))
        picture.provenance.append(self._provenance("generate", section.generator, value["by"], order.seed))
        if "mask" in outcome.blobs:
            picture.mask, picture.mask_area, picture.box = outcome.blobs["mask"], value["area"], _box(value["box"])
            # a made picture's mask is as good as the mask it was cut out with
            picture.mask_quality, picture.box_score = order.mask_quality, 1.0
        return picture

    def _recheck(self) -> None:
        """Look at made pictures again: do they show what was asked, and not the subject itself?"""
        section = self._recipe.recheck
        if section is None:
            return
        made = [picture for picture in self.regular if picture.alive]
        seen = [*(photo for photo in self.photographs if photo.alive), *made]
        tasks = []
        for picture in seen:
            prompt = picture.prompt if picture.role == "reg" else ""
            value = {"photos": [_photo(picture)], "mask": picture.mask_ref().place, "prompt": prompt}
            depends = [picture.image_ref().sha256, picture.mask_ref().sha256, prompt]
            tasks.append(Task(self._key("recheck", section, depends), value))
        outcomes = self._runner.run(
            "recheck",
            section.model_dump(mode="json"),
            tasks,
            batch=section.batch_size,
            resources=_resources(section),
        )
        looks = {picture.id: outcomes[task.key] for picture, task in zip(seen, tasks, strict=True)}
        wanted: dict[str, list[Picture]] = {}
        for subject in self.subjects:
            for name in subject.regular_ids:
                wanted.setdefault(name, []).extend(subject.kept())
        for picture in made:
            outcome = looks[picture.id]
            if outcome.fault is not None:
                picture.fault = outcome.fault
                continue
            picture.provenance.append(self._provenance("recheck", section, outcome.value["by"]))
            embeddings = [looks[photo.id].value for photo in wanted[picture.id] if looks[photo.id].fault is None]
            judge_again(picture, outcome.value, embeddings, section)

    # ---------------------------------------------------------------------------------------------------------------

    def _key(self, stage: str, section: Section, depends: Any) -> str:
        parts = [stage, STAGE_VERSIONS[stage], "", section.digest, depends]
        if stage in ROLES:
            parts[2] = backend_class(ROLES[stage], section.model_dump()["kind"]).version
            # weights are known by what they are: other bytes under the same name give other results
            identity = self._identities[ROLES[stage]]
            parts += [identity] if identity else []
        return digest_of(parts)

    def _provenance(self, stage: str, section: Section, by: Sequence[str], seed: int = 0) -> Provenance:
        backend, model, version = by
        return Provenance(
            stage=stage, backend=backend, model=model, version=version, settings_digest=section.digest, seed=seed
        )


def _batch(section: Section, otherwise: int) -> int:
    return int(getattr(section, "batch_size", otherwise))


def _resources(section: Section) -> Resources:
    """What workers get that hold a model: few of them, with time to load it; the others are as many as there are."""
    workers = getattr(section, "workers", None)
    return (
        Resources() if workers is None else Resources(model=True, max_workers=workers, ahead=1, timeout_s=MODEL_UNIT_S)
    )


def _decoding(limits: Limits) -> Resources:
    """What workers get that decode bytes from outside."""
    return Resources(untrusted=True, max_memory_bytes=limits.max_memory_bytes, timeout_s=20.0 * limits.decode_cpu_s)


def _source(picture: Picture) -> PhotographSource | SceneSource:
    assert picture.source is not None
    return picture.source


def _photo(picture: Picture) -> dict[str, Any]:
    return photo_input(
        sample_id=picture.id,
        subject=picture.owner,
        class_noun=picture.class_noun,
        image=picture.image_ref(),
        image_format=picture.format,
    )


def _box(values: Sequence[int]) -> Box:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1


def _inside(given: Sequence[float], width: int, height: int) -> Box | Fault:
    """A given box cut to the picture; a fault where less than 1 % of it lies inside."""
    try:
        x0, y0, x1, y1 = check_box(tuple(given))
    except ValueError as error:
        return Fault("E211", str(error))
    cut = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    area = max(0, cut[2] - cut[0]) * max(0, cut[3] - cut[1])
    if area < 0.01 * (x1 - x0) * (y1 - y0) or area == 0:
        return Fault("E211", f"box {x0},{y0},{x1},{y1} lies outside the picture of {width}x{height}")
    return cut
