"""A comparison as the Python interface gives it: its records, and every form of report."""

from __future__ import annotations

import json as encoder
from dataclasses import dataclass, fields

from tflite2q.evaluation.results import Comparison
from tflite2q.report import html, json, markdown, words


@dataclass(frozen=True, repr=False)
class Report(Comparison):
    """A comparison that can be written down; in a notebook it shows its headline."""

    @staticmethod
    def of(result: Comparison) -> Report:
        """The same figures."""
        return Report(**{field.name: getattr(result, field.name) for field in fields(result)})

    def to_json(self) -> str:
        """As `compare --json` writes it; docs/compare.schema.json describes it."""
        return encoder.dumps(json.comparison(self), indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """As `compare --html` writes it: a whole page that needs no network."""
        return html.comparison([self])

    def to_markdown(self) -> str:
        """As `compare --markdown` writes it."""
        return markdown.comparison([self])

    def __repr__(self) -> str:
        parts = [f"{self.model} -> {self.other}"]
        if self.headline is not None:
            last = self.headline.stages[-1]
            share = last.agreement if last.score is None else last.score
            measure = self.headline.measure
            cosine = measure.startswith("cosine")
            if share is not None:
                parts.append(f"{measure} {f'{share:.5f}' if cosine else words.percent(share)}")
            if last.gain is not None:
                parts.append(words.gain(last))
        if self.gates:
            parts.append(f"{len(self.failed_gates)} of {len(self.gates)} gates failed")
        return f"<Report {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        return html.fragment(self)
