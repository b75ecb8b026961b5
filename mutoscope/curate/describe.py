"""The stage that captions: every clip that is still kept, by a vision-language model, once.

    kept clips ── a few frames each ── description, mixture ──> columns captions, descriptions
                                            └─ DSG-Video ──> columns dsg_object, dsg_sentence, and their limits

`write` puts the captions into the records of the samples, in the place of the one that came with the source. What was
answered lies in a ledger in the stage's folder; a run that was killed, and any later run, asks only for what is not
there. A model that is named is not even opened where nothing is left to ask.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from mutoscope.core.chat import Chat, Endpoint, LocalModel, open_chat
from mutoscope.core.errors import MediaError, MutoscopeError, RecipeError
from mutoscope.core.log import progress
from mutoscope.curate import hallucination, telling
from mutoscope.curate.ask import Asking
from mutoscope.curate.caption import (
    FIELDS,
    SPOKEN,
    Composition,
    Description,
    Language,
    captions,
    describe,
    means_of_description,
)
from mutoscope.curate.filter import Threshold
from mutoscope.curate.hallucination import Checked, rates
from mutoscope.curate.ingest import tells_of_machine
from mutoscope.curate.ledger import Ledger, fingerprint, read_ledger, work_through
from mutoscope.curate.stage import CAPTIONS, SetView, noted, replace_columns
from mutoscope.curate.telling import Mixture
from mutoscope.curate.view import View
from mutoscope.curate.view import view as look
from mutoscope.data.schema import Caption

Model = Endpoint | LocalModel
Kind = Literal["short", "dense", "composed", "mixture"]

# What a model said of each clip, in its parts, once for each language.
DESCRIPTIONS = pa.field("descriptions", pa.list_(pa.struct([(name, pa.string()) for name in ("language", *FIELDS)])))
OBJECT, SENTENCE = "dsg_object", "dsg_sentence"


@dataclass(frozen=True)
class Hallucination:
    """Check captions by DSG-Video, see `curate.hallucination`; of several captions the longest plain one is checked.

    Args:
        judge: looks for what captions name. The model that wrote them would agree with itself.
        num_frames: frames that it is shown, one after another, until one shows the thing.
        object_at_most: share of a caption's objects that no frame shows; clips above it are dropped. None only counts.
        sentence_at_most: share of its sentences that name such an object.
    """

    judge: Model = Endpoint()
    num_frames: int = 8
    object_at_most: float | None = None
    sentence_at_most: float | None = None

    @property
    def limits(self) -> tuple[Threshold, ...]:
        """Return the limits as those of any other number, for the reasons of drops and for the card."""
        return (
            Threshold(OBJECT, at_most=self.object_at_most, unit="of objects", better="lower", name=OBJECT),
            Threshold(SENTENCE, at_most=self.sentence_at_most, unit="of sentences", better="lower", name=SENTENCE),
        )


@dataclass(frozen=True)
class Captions:
    """The stage over the set that captions the clips that are still kept; best the last one, as it costs most.

    Args:
        vlm: the model that is shown frames.
        llm: writes from text alone: it merges the mixture, and lists what captions claim; None for `vlm`.
        kinds: of captions that a record gets: of a description in parts the ``short`` one, the ``dense`` one, and
            ``composed`` ones; the ``mixture`` of Stable Video Diffusion, in the shares in which that paper draws them.
        languages: in which each clip is captioned.
        asking: frames shown, attempts and tokens; its language is that of `languages`.
        composition: how composed captions are made.
        texts: how many of them a record gets at most.
        seed: of their draws.
        longest_px: longer side of the frames shown.
        spares_captioned: leave clips alone whose source came with a caption.
        failed: what becomes of a clip that could not be captioned or checked: ``drop`` it, or ``keep`` it with a note
            and, where it has no caption, that of its source.
        hallucination: check the captions; None does not.
    """

    vlm: Model = Endpoint()
    llm: Model | None = None
    kinds: tuple[Kind, ...] = ("short", "dense", "composed")
    languages: tuple[Language, ...] = ("en",)
    asking: Asking = Asking()
    composition: Composition = Composition()
    texts: int = 4
    seed: int = 0
    longest_px: int = 512
    spares_captioned: bool = False
    failed: Literal["drop", "keep"] = "drop"
    hallucination: Hallucination | None = None
    name: str = "captions"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for what, given in (("kinds", self.kinds), ("languages", self.languages)):
            if not given or len(set(given)) < len(given):
                raise RecipeError(f"Stage {self.name}: {what}={list(given)}. Give at least one, and each once.")
        if self.asking.language != Asking.language:
            raise RecipeError(f"Stage {self.name}: asking.language was given. Give languages=('en',) or more instead.")
        for what, number in (("texts", self.texts), ("longest_px", self.longest_px)):
            if number < 1:
                raise RecipeError(f"Stage {self.name}: {what}={number}. It must be at least 1.")

    @property
    def limits(self) -> tuple[Threshold, ...]:
        """Return what is limited, for the card."""
        return self.hallucination.limits if self.hallucination else ()

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Add the columns, and drop what could not be captioned or is hallucinated, as far as the settings say so.

        Raises:
            ChatError: a server is gone, or a key, address or model is wrong.
            MutoscopeError: a model cannot be opened, or the frames of many clips in a row cannot be had.
        """
        rows = clips.select(["id", "start_s", "end_s", "dropped_by", "reason", "notes"]).to_pylist()
        kept = [row["id"] for row in rows if not row["dropped_by"]]
        asked = [id for id in kept if not (self.spares_captioned and view.source(id).caption)]
        lasts_s = {row["id"]: row["end_s"] - row["start_s"] for row in rows}
        with Ledger(view.folder / "ledger.jsonl") as ledger:
            run = _Run(self, view, ledger, lasts_s, asked)
            told = run.caption()
            checked = run.check(told, self.hallucination) if self.hallucination else {}
        for row in rows:
            self._judge(row, run, checked.get(row["id"]))
        if run.later:
            view.again.append(f"{self.name}: {len(run.later)} clips were left unanswered")
        has = [told.get(row["id"]) for row in rows]
        columns = {
            name: pa.array([row[name] for row in rows], pa.string()) for name in ("dropped_by", "reason", "notes")
        }
        columns[CAPTIONS.name] = pa.array(
            [one and [asdict(text) for text in one.captions] for one in has], CAPTIONS.type
        )
        if any(kind != "mixture" for kind in self.kinds):
            columns[DESCRIPTIONS.name] = pa.array([one and one.descriptions for one in has], DESCRIPTIONS.type)
        for name in (OBJECT, SENTENCE) if self.hallucination else ():
            values = [one and one[name] for one in (checked.get(row["id"]) for row in rows)]
            columns[name] = pa.array(values, pa.float64())
        return replace_columns(clips, columns)

    def _judge(self, row: dict[str, Any], run: "_Run", checked: Mapping[str, float] | None) -> None:
        """Mark a row by what became of its clip."""
        problem = run.failed.get(row["id"]) or run.later.get(row["id"], "")
        if problem and self.failed == "keep":
            row["notes"] = noted(row["notes"], f"{self.name}: {problem}")
        elif problem:
            row["dropped_by"], row["reason"] = self.name, problem
        refusals = [refusal for limit in self.limits if checked and (refusal := limit.refusal(checked[limit.score]))]
        if refusals:
            row["dropped_by"], row["reason"] = self.name, refusals[0]


@dataclass(frozen=True)
class _Told:
    """What a clip's record gets, what the table of clips gets, and which text a check is to look at."""

    captions: tuple[Caption, ...]
    descriptions: list[dict[str, str]]
    checked: str


class _Models:
    """Opens each model when it is first asked, once."""

    def __init__(self) -> None:
        self._opened: dict[Model, Chat] = {}

    def chat(self, model: Model) -> Chat:
        if model not in self._opened:
            self._opened[model] = open_chat(model)
        return self._opened[model]

    def means(self, model: Model) -> dict[str, Any]:
        """Return what the answers of a model depend on; a server is asked for the name where a recipe gives none."""
        if isinstance(model, Endpoint):
            name = model.model or self.chat(model).name
            return {"name": name, "temperature": model.temperature, "extra": model.fields()}
        return {"name": Path(model.source).name, "dtype": model.dtype}


@dataclass
class _Run:
    """One run of the stage.

    `failed` has the reason of each clip that is given up, `later` of each that the next run asks for again.
    """

    stage: Captions
    view: SetView
    ledger: Ledger
    lasts_s: Mapping[str, float]
    asked: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    models: _Models = field(default_factory=_Models)

    def caption(self) -> dict[str, _Told]:
        """Caption all clips; return those of which nothing is missing."""
        wants_parts = any(kind != "mixture" for kind in self.stage.kinds)
        described: dict[Language, dict[str, Description]] = {}
        mixed: dict[Language, dict[str, Mixture]] = {}
        for language in self.stage.languages:
            asking = replace(self.stage.asking, language=SPOKEN[language])
            if wants_parts:
                found = self._describe(asking)
                described[language] = {id: Description(**result) for id, result in found.items()}
            if "mixture" in self.stage.kinds:
                mixed[language] = {id: Mixture(**result) for id, result in self._mix(asking).items()}
        done = [id for id in self.asked if id not in self.failed and id not in self.later]
        return {
            id: _tell(
                self.stage,
                id,
                {language: parts[id] for language, parts in described.items()},
                {language: mixture[id] for language, mixture in mixed.items()},
            )
            for id in done
        }

    def check(self, told: Mapping[str, _Told], settings: Hallucination) -> dict[str, dict[str, float]]:
        """Return the two rates of DSG-Video of each caption."""
        vlm, llm = self.stage.vlm, self.stage.llm or self.stage.vlm
        asking = replace(self.stage.asking, num_frames=settings.num_frames)
        judging = {"llm": self.models.means(llm), "judge": self.models.means(settings.judge)}
        means = {"what": "dsg", "of": self._of_captions(vlm), **judging, **hallucination.means_of_check(asking)}

        def work(view: View) -> Mapping[str, Any]:
            chats = self.models.chat(llm), self.models.chat(settings.judge)
            return asdict(hallucination.check(*chats, view, told[view.id].checked, asking))

        found = self._ask(list(told), means, work, (llm, settings.judge), "check")
        counts = {id: rates([Checked.from_dict(result)]) for id, result in found.items()}
        return {id: {OBJECT: count.object_rate, SENTENCE: count.sentence_rate} for id, count in counts.items()}

    def _of_captions(self, vlm: Model) -> dict[str, Any]:
        """Return what the captions that are checked depend on."""
        asking = replace(self.stage.asking, language=SPOKEN[self.stage.languages[0]])
        shared = {"vlm": self.models.means(vlm), "longest_px": self.stage.longest_px, **asking.means()}
        if self._checks_mixture:
            return {**shared, "llm": self.models.means(self.stage.llm or vlm), **telling.means_of_mixture(asking)}
        return {**shared, **means_of_description(asking)}

    @property
    def _checks_mixture(self) -> bool:
        return set(self.stage.kinds) == {"mixture"}

    def _describe(self, asking: Asking) -> dict[str, dict[str, Any]]:
        vlm = self.stage.vlm
        means = {"model": self.models.means(vlm), **means_of_description(asking)}
        return self._ask(
            self.asked, means, lambda view: asdict(describe(self.models.chat(vlm), view, asking)), (vlm,), "captions"
        )

    def _mix(self, asking: Asking) -> dict[str, dict[str, Any]]:
        vlm, llm = self.stage.vlm, self.stage.llm or self.stage.vlm
        means = {"vlm": self.models.means(vlm), "llm": self.models.means(llm), **telling.means_of_mixture(asking)}

        def work(view: View) -> Mapping[str, Any]:
            chats = self.models.chat(vlm), self.models.chat(vlm), self.models.chat(llm)
            return asdict(telling.mix(*chats, view, asking))

        return self._ask(self.asked, means, work, (vlm, llm), "mixtures")

    def _ask(
        self,
        ids: Iterable[str],
        means: dict[str, Any],
        work: Callable[[View], Mapping[str, Any]],
        models: Iterable[Model],
        what: str,
    ) -> dict[str, dict[str, Any]]:
        """Do some work on each clip that has not failed before; return the results there are."""
        means = {**means, "longest_px": self.stage.longest_px, "version": self.stage.version}
        tries = {"attempts": self.stage.asking.attempts}
        keys = fingerprint(means), fingerprint({**means, **tries})
        wanted = [id for id in ids if id not in self.failed and id not in self.later]
        missing = [id for id in wanted if not any(self.ledger.holds(id, key) for key in keys)]
        if missing:
            chats = [self.models.chat(model) for model in models]
            self._work_through(wanted, missing, means, work, max(chat.at_once for chat in chats), tries, what)
        rows = {row["clip"]: row for row in read_ledger(self.ledger.path) if "clip" in row and row["settings"] in keys}
        for id in wanted:
            if id not in rows:
                self.later[id] = "left unanswered; the same command asks again"
            elif rows[id]["result"] is None:
                self.failed[id] = rows[id]["reason"]
        return {id: rows[id]["result"] for id in wanted if id in rows and rows[id]["result"] is not None}

    def _work_through(
        self,
        wanted: list[str],
        missing: list[str],
        means: Mapping[str, Any],
        work: Callable[[View], Mapping[str, Any]],
        at_once: int,
        tries: Mapping[str, Any],
        what: str,
    ) -> None:
        one_at_a_time = threading.Lock()
        with progress(len(wanted), what, done=len(wanted) - len(missing)) as bar:

            def counted(view: View) -> Mapping[str, Any]:
                try:
                    return work(view)
                finally:
                    with one_at_a_time:
                        bar.advance()

            try:
                work_through(map(self._shown, missing), counted, self.ledger, means, at_once, tries)
            except OSError as error:
                raise MutoscopeError(
                    f"{self.stage.name}: the frames of many clips in a row cannot be had now ({error}). "
                    "Run the same command again when they can."
                ) from error

    def _shown(self, id: str) -> View:
        """Return a clip as models are shown it; its file is fetched and decoded by the thread that needs it."""
        _, start, end = self.view.places[id]

        def pictures(count: int) -> tuple[bytes, ...]:
            try:
                path = self.view.fetch(id)
                return look(path, start, end - start, longest_px=self.stage.longest_px).pictures(count)
            except MediaError as error:
                if tells_of_machine(error):
                    raise OSError(str(error)) from error
                raise

        lasts_s = self.lasts_s[id] if self.view.source(id).kind == "video" else 0.0
        return View(id, lasts_s, pictures)


def _tell(
    stage: Captions, id: str, described: Mapping[Language, Description], mixed: Mapping[Language, Mixture]
) -> _Told:
    """Make the captions of a clip's record of what was said of it."""
    made: list[Caption] = []
    for language in stage.languages:
        if language in described:
            short, dense, *composed = captions(
                described[language], id, stage.seed, stage.texts, stage.composition, language
            )
            made += [short] if "short" in stage.kinds else []
            made += [dense] if "dense" in stage.kinds else []
            made += composed if "composed" in stage.kinds else []
        if language in mixed:
            made += [Caption(text, language) for text in in_shares(mixed[language])]
    first = stage.languages[0]
    checked = described[first].dense if first in described else mixed[first].video
    parts = [{"language": language, **asdict(one)} for language, one in described.items()]
    return _Told(tuple(made), parts, checked)


def in_shares(mixture: Mixture) -> tuple[str, ...]:
    """List captions so that a draw that treats all alike takes each as often as `telling.SHARES` says."""
    if mixture.image == mixture.video == mixture.merged:
        return (mixture.image,)
    return mixture.image, mixture.image, mixture.video, mixture.merged
