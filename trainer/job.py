"""An opened run: subjects chosen, bank filled, groups trained one after the other, adapters written as each ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.corpus import Corpus, open_corpus
from manifests.errors import Fault, UsageError
from manifests.fsops import remove_stale_temporaries, write_atomic
from manifests.ids import digest_of
from manifests.refs import parse_reference
from trainer.bank import Bank, Progress
from trainer.data import SubjectData, identifier_warning, pooled, select
from trainer.recipes import load_recipe
from trainer.starting import bank_dtype, check_base, load_base, make_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pipelines.backbones import Backbone
    from trainer.loop import Fit
    from trainer.recipe import Recipe

__all__ = ["JOINT", "WORK", "Job", "Trained"]

WORK = ".work"
RUN = "run.json"  # in a run's folder: the adapters it trains together, and on which base
JOINT = "joint"  # the owner of an adapter that several subjects share


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run made: adapter folders by subject, done before or now; subjects left out; sentences to read."""

    adapters: Mapping[str, Path]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class Job:
    """An opened run: corpus, recipe, base and the subjects chosen."""

    corpus: Corpus
    reference: str
    recipe: Recipe
    backbone: Backbone
    place: str
    output: Path
    bank: Bank
    subjects: list[SubjectData]
    asked: tuple[str, ...]
    left_out: dict[str, str]
    warnings: list[str]
    accelerator: Accelerator

    @classmethod
    def open(
        cls,
        corpus: str | Path,
        recipe: str | Recipe,
        base: str | Path,
        output: Path,
        references: int | None = None,
        settings: Mapping[str, Any] | None = None,
        bank: str | Path | None = None,
    ) -> Job:
        """Check everything that can be checked before work begins."""
        if references is not None and references < 1:
            raise UsageError(f"--references is at least 1, not {references}.")
        chosen = load_recipe(recipe, settings=settings) if isinstance(recipe, str) else recipe
        reference = parse_reference(str(corpus))
        owners = tuple(dict.fromkeys(name.partition("/")[0] for name in reference.ids))
        opened = open_corpus(dataclasses.replace(reference, ids=owners))  # photographs bring their regular pictures
        try:
            found, left_out = select(opened, chosen.settings, asked=reference.ids, references=references)
            subjects = [chosen.keeps(subject) for subject in found]
            accelerator = make_accelerator(chosen, output / WORK)
            backbone = load_base(base, chosen, accelerator)
            resolution = check_base(backbone, chosen, str(base))
            chosen.check(backbone, resolution)
        except BaseException:
            opened.close()
            raise
        warnings = list(left_out.values())
        without: dict[str, list[str]] = {}
        for subject in subjects:
            if (what := chosen.goes_without(subject)) is not None:
                without.setdefault(what, []).append(subject.id)
        warnings += [f"{', '.join(names)}: trained without {what}." for what, names in without.items()]
        tokens = backbone.tokenizers[0].tokenize(chosen.settings.identifier)
        told = None if chosen.settings.train_token else identifier_warning(tokens, chosen.settings.identifier)
        if told is not None:
            warnings.append(told)
        folder = Path(bank) if bank is not None else output / WORK / "bank"
        kept = Bank(folder, chosen, backbone, resolution, bank_dtype(chosen))
        return cls(
            opened,
            str(corpus),
            chosen,
            backbone,
            str(base),
            output,
            kept,
            subjects,
            reference.ids,
            left_out,
            warnings,
            accelerator,
        )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.accelerator.end_training()
        self.corpus.close()

    # the run

    def run(self, on_progress: Progress) -> Trained:
        """Train what is not trained yet."""
        main = self.accelerator.is_main_process
        if not main:
            on_progress = lambda *_: None  # noqa: E731
        self.prepare(on_progress)
        adapters = {name: self.output / name for name in self._owners() if self._is_done(name)}
        steps = self.recipe.settings.max_train_steps
        groups = self.groups([name for name in self._owners() if name not in adapters])
        total, done = steps * len(self._owners()), steps * len(adapters)
        on_progress("train", done, total)
        if main and groups:
            self._remember()
        for number, group in enumerate(groups):
            if number and self.recipe.settings.method == "full":  # the last group changed the base itself
                self.backbone = load_base(self.place, self.recipe, self.accelerator)
            new = [name for name in self._names(group) if name not in adapters]
            before = done
            self._train(group, new, lambda step: on_progress("train", before + step * len(new), total))  # noqa: B023
            done = before + steps * len(new)
            on_progress("train", done, total)
            adapters |= {name: self.output / name for name in new}
        return Trained(dict(sorted(adapters.items())), tuple(self.left_out), tuple(self.warnings))

    def _remember(self) -> None:
        """Note where base and corpus lie: the adapters themselves hold names only, for they go to other people."""
        from pipelines import backbones

        base, corpus = self.backbone.base, parse_reference(self.reference)
        places = {}
        if backbones.public_name(self.place) != self.place:
            parts = (part and str(Path(part).resolve()) for part in self.place.split(backbones.FOOOCUS_MARK))
            places[base.digest] = backbones.FOOOCUS_MARK.join(parts)
        if not corpus.is_remote:
            places[self.corpus.digest] = str(Path(corpus.place).resolve())
        if places:
            backbones.remember(self.output, places)

    def prepare(self, on_progress: Progress) -> None:
        """Fill the bank and leave out what cannot be trained on."""
        if self.accelerator.is_main_process:
            remove_stale_temporaries(self.bank.folder)
        with self.accelerator.main_process_first():
            faults = self.bank.prepare(self.corpus, self.subjects, self.recipe, self.backbone, on_progress)
        if faults:
            self._leave_out(faults)
        self.warnings += self.bank.without_text(self.subjects, self.recipe)

    def _leave_out(self, faults: Mapping[str, Fault]) -> None:
        self.warnings += [fault.sentence for fault in faults.values()]
        usable = []
        for subject in self.subjects:
            photographs, own, regular = (
                tuple(item for item in items if item.sample.id not in faults)
                for items in (subject.photographs, subject.own, subject.regular)
            )
            if photographs:
                usable.append(dataclasses.replace(subject, photographs=photographs, own=own, regular=regular))
                continue
            sentence = f"{subject.id}: no photograph is left to train on: {next(iter(faults.values())).detail}."
            if any(name.partition("/")[0] == subject.id for name in self.asked):
                raise UsageError(sentence, code="E611")
            self.left_out[subject.id] = sentence
            self.warnings.append(sentence)
        if not usable:
            raise UsageError(self.warnings[-1], code="E611")
        self.subjects = usable

    def groups(self, owners: Sequence[str]) -> list[list[SubjectData]]:
        """Subjects that train together: as many at once as the settings say, all with batches of one shape.

        A group that was begun stays together until its last adapter is written, whichever of them are there already.
        """
        if self.recipe.joint:
            return [self.subjects] if owners else []
        size = self.recipe.settings.subjects_at_once
        left, groups = set(owners), []
        by_id = {subject.id: subject for subject in self.subjects}
        for names in self._begun():
            if left & set(names) and set(names) <= by_id.keys() and len(names) <= size:
                groups.append([by_id[name] for name in names])
                left -= set(names)
        shapes: dict[int, list[SubjectData]] = {}
        for subject in self.subjects:
            if subject.id in left:
                shapes.setdefault(len(self.recipe.draw(subject, 0)), []).append(subject)
        return groups + [
            alike[start : start + size] for alike in shapes.values() for start in range(0, len(alike), size)
        ]

    def _begun(self) -> list[list[str]]:
        """Who trained together in the runs of this output, in the order of their folders' names."""
        found: list[list[str]] = []
        for path in sorted((self.output / WORK / "runs").glob(f"*/{RUN}")):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                found.append([str(name) for name in json.loads(path.read_bytes())["adapters"]])
        return found

    def _owners(self) -> list[str]:
        return self._names(self.subjects)

    def _names(self, group: Sequence[SubjectData]) -> list[str]:
        if self.recipe.joint:
            return [group[0].id if len(group) == 1 else JOINT]
        return [subject.id for subject in group]

    def members(self, owner: str) -> list[SubjectData]:
        """The subjects behind an adapter."""
        return self.subjects if self.recipe.joint else [s for s in self.subjects if s.id == owner]

    def _is_done(self, owner: str) -> bool:
        from pipelines.records import read_record
        from trainer.publishing import make_id

        try:
            return read_record(self.output / owner).id == make_id(self, owner)
        except UsageError:
            return False

    def _train(self, group: Sequence[SubjectData], new: Sequence[str], on_step: Callable[[int], None]) -> None:
        from trainer.publishing import write_adapter
        from trainer.validation import paint_validation

        with self.fit(group, on_step) as fit:
            every = self.recipe.settings.validation_steps
            if every is not None and self.accelerator.is_main_process:

                def step_and_show(step: int) -> None:
                    on_step(step)
                    if step % every == 0:
                        paint_validation(self.corpus, group, fit, self.bank.resolution)

                fit.on_step = step_and_show
            fit.run()
            if self.accelerator.is_main_process:
                for index, name in enumerate(fit.trainable.subjects):
                    if name in new:
                        write_adapter(self, name, index, fit)
            self.accelerator.wait_for_everyone()

    @contextmanager
    def fit(self, group: Sequence[SubjectData], on_step: Callable[[int], None] = lambda step: None) -> Iterator[Fit]:
        """The loop over a group of subjects, with everything attached to the base for the length of the block."""
        from trainer.batches import Batches
        from trainer.loop import Fit
        from trainer.trainable import make_trainable
        from trainer.trained_token import TrainedToken

        settings, unet, accelerator = self.recipe.settings, self.backbone.unet, self.accelerator
        names = self._names(group)
        seen = [pooled(group, names[0])] if self.recipe.joint else group
        timesteps = len(self.backbone.alphas_cumprod)
        batches = Batches(self.bank, self.recipe, seen, timesteps, accelerator.process_index, accelerator.num_processes)
        folder = self.output / WORK / "runs" / f"{names[0]}-{digest_of(names)[:8]}"
        if accelerator.is_main_process:
            facts = {"adapters": names, "base": dataclasses.asdict(self.backbone.base)}
            write_atomic(folder / RUN, json.dumps(facts, indent=1).encode())
        detach = self.recipe.attach(self.backbone)
        trainable = make_trainable(self.backbone, names, settings)
        token = TrainedToken(self.backbone, names, settings) if settings.train_token else None
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if settings.compile:
            unet.compile()
        try:
            told = self.fingerprint(group)
            yield Fit(self.recipe, self.backbone, trainable, batches, accelerator, folder, told, on_step, token)
        finally:
            if token is not None:
                token.remove()
            trainable.remove()
            detach()
            unet.disable_gradient_checkpointing()

    def fingerprint(self, group: Sequence[SubjectData]) -> dict[str, Any]:
        """What must be the same when a group is taken up again; plain JSON values."""
        return {
            **self.recipe.settings.fingerprint(),
            "recipe": self.recipe.name,
            "base": self.backbone.base.digest,
            "resolution": self.bank.resolution,
            "processes": self.accelerator.num_processes,
            **{f"data of {subject.id}": subject.digest()[:16] for subject in group},
        }
