"""The jobs of a batch and their results, as frozen values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

CONVERTED, UNCHANGED, GATES, REFUSED = "converted", "unchanged", "gates failed", "refused"
UNWRITTEN = "not written"
TIME, MEMORY, DIED, BUG = "time limit", "memory limit", "died", "internal error"
STATES = (CONVERTED, UNCHANGED, GATES, REFUSED, UNWRITTEN, TIME, MEMORY, DIED, BUG)
FINE = (CONVERTED, UNCHANGED)
USABLE = (*FINE, GATES)  # those that have outputs

GATE_FAILED, UNUSABLE = 1, 3

# The figures of every summary, in its order; scores, whose names depend on the task, stand before the last.
SIZE, CHANGE, CHANGED_LAYERS, EQUAL_ANSWERS = "size", "change", "changed layers", "equal answers"

# The endings of outputs: the model, what the conversion did as JSON, and the reports of a comparison for people.
MODEL, RECORD, TEXT, PAGE = ".tflite", ".json", ".md", ".html"
LIBRARY = ".so"


@dataclass(frozen=True)
class Settings:
    """What is asked for one model: `scheme_text` is the scheme as `schemes.dump` writes it, `calibrate` the path of
    samples for float models.  `compare` holds keywords of `pipeline.compare`, among them `data`, `labels` and `gates`;
    None: no comparison."""

    scheme: str
    scheme_text: str
    allow_unsupported: bool = False
    unchanged: str = "copy"
    targets: tuple[str, ...] = ()
    threads: int = 1
    calibrate: str | None = None
    compare: Mapping[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether models are compiled or run, and not only converted."""
        return self.compare is not None or bool(self.targets)

    @property
    def paths(self) -> dict[str, str]:
        """The files and folders beside the model that the result depends on, by what they are."""
        given = {"calibrate": self.calibrate}
        if self.compare is not None:
            given |= {key: self.compare.get(key) for key in ("data", "labels", "label_names")}
        return {key: path for key, path in given.items() if path is not None}

    def moved(self, paths: Mapping[str, str]) -> Settings:
        """The same with `paths` of its files and folders, by what they are."""
        inner = {what: path for what, path in paths.items() if what != "calibrate"}
        compare = None if self.compare is None else {**self.compare, **inner}
        return replace(self, calibrate=paths.get("calibrate"), compare=compare)


@dataclass(frozen=True)
class Job:
    """A model to convert: the file `source`, called `name` in reports; its outputs are `stem` plus an ending, a path
    below the output folder."""

    source: str
    name: str
    stem: str
    settings: Settings

    def endings(self) -> tuple[str, ...]:
        """The endings of everything that the job may write."""
        reports = (RECORD,) if self.settings.compare is None else (RECORD, TEXT, PAGE)
        return (MODEL, *(library(target) for target in self.settings.targets), *reports)


def library(target: str) -> str:
    """The ending of the library for a target, whose name may be JSON."""
    return f".{''.join(c if c.isalnum() or c in '-_.' else '_' for c in target)}{LIBRARY}"


def of_other_options(ending: str) -> bool:
    """Whether this is an ending of what only some options ask for.  More points may belong to the name of a model."""
    return ending in (TEXT, PAGE) or (ending.endswith(LIBRARY) and ending.count(".") == 2)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: `outputs` are the hashes of its files by their endings, `figures` short texts by name,
    `gates` a sentence for each gate and whether it passed."""

    state: str
    reason: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    gates: Sequence[tuple[str, str, bool]] = ()
    notes: Sequence[str] = ()

    @staticmethod
    def of(document: Mapping[str, Any]) -> Outcome:
        """From JSON of its fields."""
        gates = [(name, said, bool(passed)) for name, said, passed in document["gates"]]
        return Outcome(**{**document, "gates": gates})

    @property
    def keeps(self) -> bool:
        """Whether the same job would end so again; a full disk, limits, deaths and errors of our own may not be its
        fault."""
        return self.state in (*USABLE, REFUSED)


@dataclass(frozen=True)
class Done:
    """A job that was done: its outcome, and the seconds that it took, without those that it waited for its turn."""

    outcome: Outcome
    seconds: float


@dataclass(frozen=True)
class Record:
    """A job with its outcome: `seconds` is the time that it took now, `cached` whether the result was there."""

    job: Job
    outcome: Outcome
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Summary:
    """All records of a batch, in the order of the jobs."""

    records: tuple[Record, ...]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs ended in each state that occurs."""
        found = Counter(record.outcome.state for record in self.records)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def cached(self) -> int:
        return sum(record.cached for record in self.records)

    @property
    def exit_code(self) -> int:
        """3 if an input could not be used, else 1 if a gate failed, else 0."""
        states = set(self.counts)
        if states - set(USABLE):
            return UNUSABLE
        return GATE_FAILED if GATES in states else 0
