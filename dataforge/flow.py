"""The stages in order: what each is asked, and what its answers change. Read `Flow.run` from top to bottom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

from dataforge import __version__
from dataforge.backends import backend_class, model_identity
from dataforge.config import Limits, Recipe, Section
from dataforge.executor import Resources
from dataforge.ingest.sources import Inputs, PhotographSource, SceneSource
from dataforge.regular import Order, class_orders, orders_of, own_pixel_orders
from dataforge.runner import Runner, Task
from dataforge.samples import Picture, WorkingSubject
from dataforge.stages.blobs import photo_input
from dataforge.stages.compose import instance_prompt
from dataforge.stages.gate import assign_splits, flag_near_duplicates, judge, judge_again, reject_made_twice
from dataforge.store import Outcome
from dataforge.words import corrected_words, without_words
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


RecordT = TypeVar("RecordT", bound=Hashable)
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
        # sections live as long as the recipe, so their place in memory names them
        self._said: dict[tuple[str, int], tuple[list[str], list[str]]] = {}
        self._digests: dict[int, str] = {}
        self._once: dict[Hashable, Any] = {}  # equal records are one: JSON gives each subject its own copy

    def run(self, *, rehash: bool = False) -> None:
        """All stages in order; afterwards every picture is kept, an alias, or has its fault."""
        recipe = self._recipe
        self._ingest(rehash=rehash)
        self._ingest_masks(rehash=rehash)
        self._aim_scenes()
        self._ground(self.photographs)
        self._segment(self.photographs)
        self._judge(self.photographs)
        self._describe()
        self._compose()
        self._generate()
        self._ground(self.regular)
        self._segment(self.regular)
        self._judge(self.regular)
        self._recheck()
        made = [picture for picture in self.regular if picture.alive]
        reject_made_twice(made, recipe.gate)
        self._tell(made)
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
        keys: list[str] = []

        def tasks() -> Iterator[Task]:
            for picture in found:
                file = _source(picture).file
                facts = {"path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
                keys.append(self._key("ingest", self._pixels, facts))
                yield Task(keys[-1], facts)

        outcomes = self._runner.run(
            "ingest",
            ingest.model_dump(mode="json"),
            tasks(),
            total=len(found),
            batch=8,
            resources=_decoding(ingest.limits),
            fresh=rehash,
        )
        taken: dict[str, Picture] = {}
        owners: dict[str, str] = {}
        for picture, outcome in zip(found, outcomes.of(keys), strict=True):
            if outcome.fault:
                picture.fault = outcome.fault
                continue
            value = outcome.value
            # what stands in many places is one text: results come out of JSON with their own copy
            source_sha256, image = value["sha256"], outcome.blobs["image"]
            picture.source_sha256 = image.sha256 if image.sha256 == source_sha256 else source_sha256
            picture.notes = tuple(value["notes"])
            name = sys.intern(sample_id(picture.owner, picture.role, picture.source_sha256))
            first = taken.setdefault(name, picture)
            if first is not picture and first.source_sha256 == picture.source_sha256:
                picture.alias_of = name
                continue
            if first is not picture:
                self._refuse(picture, Fault("E171", f"{_source(first).file.path} has the ID {name}"))
                continue
            picture.id, picture.image, picture.format = name, image, sys.intern(value["format"])
            picture.width, picture.height = value["width"], value["height"]
            picture.perceptual_hash = int(value["perceptual_hash"], 16)
            picture.provenance += (self._provenance("ingest", ingest, ["dataforge", "", __version__]),)
            if picture.role == "src":
                other = owners.setdefault(picture.source_sha256, picture.owner)
                if other != picture.owner:
                    picture.flags += ("in-two-subjects",)
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
            "ingest-mask",
            ingest.model_dump(mode="json"),
            tasks,
            total=len(tasks),
            batch=16,
            resources=resources,
            fresh=rehash,
        )
        for (picture, source, _), outcome in zip(masked, outcomes.of(task.key for task in tasks), strict=True):
            if outcome.fault:
                assert source.mask is not None
                self.mask_faults[source.mask.path] = outcome.fault
                picture.flags += ("given-mask-refused",)
                continue
            picture.mask, picture.mask_quality = outcome.blobs["mask"], 1.0
            picture.mask_area, picture.box = outcome.value["area"], _box(outcome.value["box"])
            picture.box_score = 1.0
            picture.provenance += (self._provenance("segment", ingest, [source.mask_by, "", __version__]),)

    def _aim_scenes(self) -> None:
        """A scene's box is the default place to paint into; its mask is that box."""
        for picture in self.scenes:
            if not picture.alive:
                continue
            given = _source(picture).box
            width, height = picture.width, picture.height
            if given is None:
                box: Box | Fault = (width // 4, height // 4, width - width // 4, height - height // 4)
                picture.flags += ("default-box",)
            else:
                box = _inside(given, width, height)
            if isinstance(box, Fault):
                self._refuse(picture, box)
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
                self._refuse(picture, box)
                continue
            picture.box, picture.box_score = box, 1.0
            picture.provenance += (self._provenance("ground", self._recipe.ingest, [source.box_by, "", __version__]),)
        for group, key, outcome in self._by_group("ground", section, asked, lambda photo: {}):
            for number, (picture, item) in enumerate(zip(group, outcome.value["items"], strict=True)):
                if "fault" in item:
                    self._refuse(picture, Fault(*item["fault"]))
                    continue
                picture.box, picture.box_score = _box(item["box"]), item["score"]
                picture.other_boxes = tuple(_box(box) for box in item["other_boxes"])
                picture.provenance += (self._provenance("ground", section, outcome.value["by"]),)
                if "segmentation" in item and section.kind == self._recipe.segment.kind:
                    self._take_mask(picture, ("ground", key, number), outcome, item["segmentation"])

    def _segment(self, pictures: Iterable[Picture]) -> None:
        section = self._recipe.segment

        def grounding(picture: Picture) -> dict[str, Any]:
            others = [list(box) for box in picture.other_boxes]
            return {"box": list(picture.the_box()), "score": picture.box_score, "other_boxes": others}

        asked = [picture for picture in pictures if picture.alive and picture.mask is None]
        for group, key, outcome in self._by_group("segment", section, asked, grounding):
            for number, (picture, item) in enumerate(zip(group, outcome.value["items"], strict=True)):
                if "fault" in item:
                    self._refuse(picture, Fault(*item["fault"]))
                    continue
                self._take_mask(picture, ("segment", key, number), outcome, item)

    def _take_mask(
        self, picture: Picture, measured: tuple[str, str, int], outcome: Outcome, facts: dict[str, Any]
    ) -> None:
        picture.measured, picture.mask = measured, outcome.blobs[str(measured[-1])]
        picture.mask_area, picture.mask_quality = facts["area"], facts["quality"]
        picture.doubts = tuple(map(sys.intern, facts["flags"]))
        if picture.box_score < 1.0:
            picture.box = _box(facts["box"])
        picture.provenance += (self._provenance("segment", self._recipe.segment, outcome.value["by"]),)

    def _by_group(
        self, stage: str, section: Section, pictures: Sequence[Picture], extra: Callable[[Picture], dict[str, Any]]
    ) -> Iterable[tuple[list[Picture], str, Outcome]]:
        """Run a stage over pictures, one task each or one task per owner, as its backend's `scope` wants.

        A task that failed as a whole ends the way of all its pictures and is not passed on.
        """
        whole = backend_class(stage, section.model_dump()["kind"]).scope == "subject"
        ordered = sorted(pictures, key=lambda picture: picture.id)
        groups = (
            [list(group) for _, group in groupby(ordered, key=lambda p: p.owner)] if whole else [[p] for p in ordered]
        )
        keys: list[str] = []

        def tasks() -> Iterator[Task]:
            for group in groups:
                value: dict[str, Any] = {"photos": [_photo(picture) for picture in group]}
                extras = [extra(picture) for picture in group]
                if stage == "segment":
                    value["groundings"] = extras
                depends = [[p.image_ref().sha256, p.class_noun, more] for p, more in zip(group, extras, strict=True)]
                keys.append(self._key(stage, section, depends))
                yield Task(keys[-1], value, weight=len(group))

        outcomes = self._runner.run(
            stage,
            section.model_dump(mode="json"),
            tasks(),
            total=len(groups),
            batch=1 if whole else _batch(section, 8),
            resources=_resources(section),
        )
        for group, key, outcome in zip(groups, keys, outcomes.of(keys), strict=True):
            if outcome.fault is None:
                yield group, key, outcome
                continue
            for picture in group:
                picture.fault = outcome.fault

    def _judge(self, pictures: Sequence[Picture]) -> None:
        alive = [picture for picture in pictures if picture.alive]
        judge(alive, self._recipe.gate)
        self._tell(alive)

    def _refuse(self, picture: Picture, fault: Fault) -> None:
        """End a picture's way for a reason that the runner has not seen: a task's own fault it tells itself."""
        picture.fault = fault
        self._tell([picture])

    def _tell(self, pictures: Iterable[Picture]) -> None:
        for picture in pictures:
            if picture.fault is not None:
                self._runner.on_reject(picture.fault.code)

    def _describe(self) -> None:
        section = self._recipe.describe
        asked = [subject for subject in self.subjects if any(photo.alive for photo in subject.photographs)]
        keys: list[str] = []

        def tasks() -> Iterator[Task]:
            for subject in asked:
                kept = subject.kept()
                value = {
                    "photos": [_photo(photo) for photo in kept],
                    "masks": [photo.mask_ref().place for photo in kept],
                }
                depends = [[p.id, p.class_noun, p.image_ref().sha256, p.mask_ref().sha256] for p in kept]
                keys.append(self._key("describe", section, depends))
                yield Task(keys[-1], value)

        outcomes = self._runner.run(
            "describe",
            section.model_dump(mode="json"),
            tasks(),
            total=len(asked),
            batch=_batch(section, 1),
            resources=_resources(section),
        )
        for subject, outcome in zip(asked, outcomes.of(keys), strict=True):
            words: list[SubjectAttribute] = []
            by, captions = ["none", "", __version__], {}
            if outcome.fault:  # the photographs are still good: they go on without words, flagged
                for photo in subject.kept():
                    photo.flags += ("not-described",)
            else:
                by, captions = outcome.value["by"], outcome.value["captions"]
                words = [self._word(word) for word in outcome.value["words"]]
            subject.words = corrected_words(words, subject.source.overrides, [photo.id for photo in subject.kept()])
            attributes = [
                Attribute(category=w.category, word=w.word, score=w.score, origin=w.origin) for w in subject.words
            ]
            for photo in subject.kept():
                source = photo.source
                said = source.caption if isinstance(source, PhotographSource) else None
                if said is None:
                    said = without_words(captions.get(photo.id, ""), subject.source.overrides.strike_words)
                photo.caption = sys.intern(said)
                photo.attributes = tuple(
                    attribute
                    for word, attribute in zip(subject.words, attributes, strict=True)
                    if word.origin == "source" and photo.id in word.sample_ids
                )
                photo.provenance += (self._provenance("describe", section, by),)

    def _compose(self) -> None:
        section, generate = self._recipe.compose, self._recipe.generate
        generator = backend_class("generate", generate.generator.kind)
        keys: list[str] = []

        def tasks() -> Iterator[Task]:
            for subject in self.subjects:
                showable = None
                if generator.own_pixels:
                    showable = [[w.category, w.word] for w in subject.words if generator.can_show(w.category, w.word)]
                words = [{**encode(word), "sample_ids": []} for word in subject.words]
                value = {"class_noun": subject.source.class_noun, "words": words, "showable": showable}
                keys.append(self._key("compose", section, value))
                yield Task(keys[-1], value)

        outcomes = self._runner.run(
            "compose",
            section.model_dump(mode="json"),
            tasks(),
            total=len(self.subjects),
            batch=256,
            resources=Resources(),
        )
        for subject, outcome in zip(self.subjects, outcomes.of(keys), strict=True):
            found = [] if outcome.fault else outcome.value["prompts"]
            prompts = [decode(RegularPrompt, prompt, where="compose") for prompt in found]
            subject.prompts = tuple(map(self._shared, prompts))
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
            tasks.values(),
            total=len(tasks),
            batch=_batch(section, 1),
            resources=_resources(section),
        )
        for subject in self.subjects:
            noun, prompts = subject.source.class_noun, []
            for prompt in subject.prompts:
                outcome = outcomes[tasks[noun, prompt.prompt].key]
                if outcome.fault is None:
                    prompt = self._shared(replace(prompt, prompt=outcome.value["prompt"], template=WRITTEN))
                prompts.append(prompt)
            subject.prompts = tuple(prompts)

    def _generate(self) -> None:
        section = self._recipe.generate
        own_pixels = backend_class("generate", section.generator.kind).own_pixels
        if own_pixels:
            orders = own_pixel_orders(self.subjects, self.scenes, section)
        else:
            orders = class_orders(self.subjects, section)
        keys: list[str] = []
        seeds: list[int] = []

        def tasks() -> Iterator[Task]:
            for order in orders:
                keys.append(self._key("generate", section.generator, order.depends))
                seeds.append(order.seed)
                self.regular.append(self._ordered(order, keys[-1]))
                yield Task(keys[-1], order.task_input)

        outcomes = self._runner.run(
            "generate",
            section.model_dump(mode="json"),
            tasks(),
            total=orders_of(self.subjects, section, own_pixels=own_pixels),
            batch=_batch(section.generator, 4),
            resources=_resources(section.generator),
        )
        for picture, outcome, seed in zip(self.regular, outcomes.of(keys), seeds, strict=True):
            self._take_made(picture, outcome, seed)

    def _ordered(self, order: Order, key: str) -> Picture:
        """The picture that an order will become."""
        picture = Picture("reg", order.owner, order.class_noun, id=sample_id(order.owner, "reg", key))
        picture.prompt = picture.caption = order.prompt.prompt
        picture.attributes, picture.own_pixels = order.attributes, order.own_pixels
        picture.parents, picture.mask_quality = order.scene_ids, order.mask_quality
        compose, writer = self._recipe.compose, ["dataforge", "", __version__]
        if order.prompt.template == WRITTEN:
            describe = self._recipe.describe
            writer = [describe.kind, self._identities["describe"], backend_class("describe", describe.kind).version]
        picture.provenance += (self._provenance("compose", compose, writer, compose.seed),)
        for subject in order.subjects:
            subject.regular_ids.append(picture.id)
        return picture

    def _take_made(self, picture: Picture, outcome: Outcome, seed: int) -> None:
        if outcome.fault:
            picture.fault = outcome.fault
            picture.provenance = ()
            return
        value = outcome.value
        picture.image, picture.format = outcome.blobs["image"], sys.intern(value["format"])
        picture.width, picture.height = value["width"], value["height"]
        picture.parents = (*map(sys.intern, value["parents"]), *picture.parents)
        picture.scores = {sys.intern(name): score for name, score in value["scores"].items()}
        picture.perceptual_hash = int(value["perceptual_hash"], 16)
        picture.provenance += (self._provenance("generate", self._recipe.generate.generator, value["by"], seed),)
        if "mask" in outcome.blobs:  # as good as the mask it was cut out with
            picture.mask, picture.mask_area, picture.box = outcome.blobs["mask"], value["area"], _box(value["box"])
            picture.box_score = 1.0
        else:
            picture.mask_quality = 0.0

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
            total=len(tasks),
            batch=section.batch_size,
            resources=_resources(section),
        )
        keys = {picture.id: task.key for picture, task in zip(seen, tasks, strict=True)}
        wanted: dict[str, list[Picture]] = {}
        for subject in self.subjects:
            for name in subject.regular_ids:
                wanted.setdefault(name, []).extend(subject.kept())
        for picture in made:
            outcome = outcomes[keys[picture.id]]
            if outcome.fault is not None:
                picture.fault = outcome.fault
                continue
            picture.provenance += (self._provenance("recheck", section, outcome.value["by"]),)
            looks = [outcomes[keys[photo.id]] for photo in wanted[picture.id]]
            embeddings = [look.value for look in looks if look.fault is None]
            judge_again(picture, outcome.value, embeddings, section)
            self._tell([picture])

    # ---------------------------------------------------------------------------------------------------------------

    def _key(self, stage: str, section: Section, depends: Any) -> str:
        known = self._said.get((stage, id(section)))
        if known is None:
            version, identity = "", ""
            if stage in ROLES:
                version = backend_class(ROLES[stage], section.model_dump()["kind"]).version
                # weights are known by what they are: other bytes under the same name give other results
                identity = self._identities[ROLES[stage]]
            known = self._said[stage, id(section)] = [version, self._digest(section)], [identity] if identity else []
        before, after = known
        return digest_of([stage, STAGE_VERSIONS[stage], *before, depends, *after])

    def _digest(self, section: Section) -> str:
        return self._digests.get(id(section)) or self._digests.setdefault(id(section), section.digest)

    def _word(self, value: dict[str, Any]) -> SubjectAttribute:
        """A word of a dictionary; a candidate, which no photograph supports, is one record for all subjects."""
        texts = {name: sys.intern(value[name]) for name in ("category", "word", "origin")}
        ids = [sys.intern(name) for name in value["sample_ids"]]
        word = decode(SubjectAttribute, {**value, **texts, "sample_ids": ids}, where="describe")
        return word if ids else self._shared(word)

    def _shared(self, record: RecordT) -> RecordT:
        """The first record that was equal to this one."""
        known: RecordT = self._once.setdefault(record, record)
        return known

    def _provenance(self, stage: str, section: Section, by: Sequence[str], seed: int = 0) -> Provenance:
        """What spoke, one record however many pictures share it."""
        backend, model, version = map(sys.intern, by)
        spoke = Provenance(
            stage=stage,
            backend=backend,
            model=model,
            version=version,
            settings_digest=self._digest(section),
            seed=seed,
        )
        # a made picture's seed is its own
        return spoke if stage == "generate" else self._shared(spoke)


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
