"""A comparison as JUnit's XML, which build servers show as tests: one test case a gate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from tflite2q.evaluation.results import Comparison
from tflite2q.report import words, xml


def comparison(results: Sequence[Comparison]) -> str:
    """One suite for each comparison; one that has no gates is a single case, which passes."""
    root = ElementTree.Element("testsuites", name="tflite2q compare")
    for result in results:
        name = f"{result.model} -> {result.other}"
        cases = str(max(len(result.gates), 1))
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=cases, failures=str(len(result.failed_gates)), errors="0", skipped="0"
        )
        properties = ElementTree.SubElement(suite, "properties")
        for key, text in _properties(result):
            ElementTree.SubElement(properties, "property", name=key, value=text)
        for gate in result.gates:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=gate.name, time="0")
            if not gate.passed:
                ElementTree.SubElement(case, "failure", message=words.gate(gate), type="gate").text = words.gate(gate)
        if not result.gates:
            ElementTree.SubElement(suite, "testcase", classname=name, name="compare", time="0")
    return xml.document(root)


def _properties(result: Comparison) -> list[tuple[str, str]]:
    """The figures of a comparison by name."""
    found: list[tuple[str, str]] = []
    if result.accuracy is not None:
        found.append(("samples", words.samples(result.accuracy)))
        for score in result.accuracy.scores:
            found += [
                (f"{score.name}_original", str(score.original)),
                (f"{score.name}_converted", str(score.converted)),
            ]
        found += [(figure.name, str(figure.value)) for figure in result.accuracy.figures]
    for stage in result.headline.stages if result.headline is not None else ():
        if stage.median_ms is not None:
            found.append((f"{stage.engine}_{stage.model}_ms", str(stage.median_ms)))
    return found
