"""What is known about a file: checks, each with a state, and what they amount to.  Plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

OK = "ok"
WRONG = "wrong"  # a result that differs from its judge's
CRASH = "crash"  # a traceback, a death, a hang, or memory eaten
REFUSED = "refused"  # an error raised on purpose, in one line
DOCUMENTED = "documented"  # differs where the op's own description says that it deviates
UNMEASURED = "not measured"  # time ran out, or there is no judge; never counted as passed
INCOMPLETE = "incomplete"  # of a file: nothing is wrong as far as it was measured, but not all of it was
NOTHING = "nothing to do"  # the model already is what the scheme asks for

# The first of these that occurs among the checks of a file is the state of the file.
_BY_WEIGHT = (CRASH, WRONG)


@dataclass(frozen=True)
class Check:
    """One thing found out: `stage` is "load", "reference", "compiled/LEVEL" or "scheme/NAME", `part` what of it."""

    stage: str
    part: str
    state: str
    detail: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """One file.  `name` is relative to the folder that was given; `size` in bytes."""

    name: str
    size: int
    checks: tuple[Check, ...]
    seconds: float

    @property
    def state(self) -> str:
        """CRASH or WRONG if any check is; else REFUSED if the program refused the file; else OK or INCOMPLETE."""
        states = {check.state for check in self.checks}
        for state in _BY_WEIGHT:
            if state in states:
                return state
        if self.find("load", "file").state == REFUSED:
            return REFUSED
        return INCOMPLETE if UNMEASURED in states else OK

    @property
    def unmeasured(self) -> int:
        """How many checks were not measured."""
        return sum(check.state == UNMEASURED for check in self.checks)

    def find(self, stage: str, part: str) -> Check:
        """The check of that name; one that is not measured if there is none."""
        for check in self.checks:
            if (check.stage, check.part) == (stage, part):
                return check
        return Check(stage, part, UNMEASURED, "never reached")

    def stages(self, kind: str) -> list[str]:
        """Names of the stages of a kind ("compiled", "scheme"), in order."""
        return list(dict.fromkeys(c.stage for c in self.checks if c.stage.startswith(f"{kind}/")))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Row:
        """What `plain` gave."""
        checks = tuple(Check(**check) for check in plain["checks"])
        return cls(plain["name"], plain["size"], checks, plain["seconds"])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "state": self.state, "unmeasured": self.unmeasured}


def faults(row: Row) -> list[Check]:
    """The checks that make a file wrong or a crash."""
    return [check for check in row.checks if check.state in (WRONG, CRASH)]


def count(rows: Iterable[Row]) -> dict[str, int]:
    """Files by state."""
    listed = list(rows)
    return {s: sum(row.state == s for row in listed) for s in (OK, INCOMPLETE, REFUSED, WRONG, CRASH)}


def one_line(text: object) -> str:
    """Text as one line of moderate length."""
    words = " ".join(str(text).split())
    return words if len(words) <= 300 else f"{words[:297]}..."
