"""Schemes: the shipped ones, what rules do, and one clear line for every mistake in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from networks import Net
from surroundings import Outcome

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.names import short
from tflite2q.errors import SchemeError
from tflite2q.rewrites import scheme

INT8 = """
summary = "a test's own"
when = "never"
[activations]
dtype = "int8"
symmetric = false
[weights]
dtype = "int8"
symmetric = true
granularity = "per-channel"
"""


def layers(found: scheme.Scheme) -> dict[str, scheme.Layer]:
    """What a scheme says of convolutions (body/a, body/b, head/a), a dense layer (head/last) and a softmax."""
    net = Net()
    x = net.input("x", (1, 2, 2, 3), (0.02, 128))
    y = net.conv(net.conv(x, "body/a", 8, (0.1, 0)), "body/b", 16, (0.1, 0))
    y = net.flatten(net.conv(y, "head/a", 4, (0.1, 0)), "flat")
    y = net.softmax(net.dense(y, "head/last", 10, (0.1, 0)), "scores")
    return found.layers(net.graph(y))


def failure(text: str) -> str:
    with pytest.raises(SchemeError) as caught:
        scheme.parse(text, "mine")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("mine: ")
    return message


@pytest.mark.parametrize("name", scheme.shipped())
def test_shipped_schemes_say_what_they_are_and_are_found_by_name(name: str) -> None:
    found = scheme.find(name)
    assert found.name == name
    assert found.summary.endswith(".")
    assert found.when.endswith(".")
    assert scheme.find(found) is found
    assert layers(found)["scores"].activations == found.layer.activations


def test_shipped_schemes_are_the_files_of_the_folder(root: Path) -> None:
    assert list(scheme.shipped()) == sorted(path.stem for path in (root / "schemes").glob("*.toml"))
    assert {"asymmetric-uint8", "int8", "symmetric-int8"} <= set(scheme.shipped())


def test_a_file_is_found_by_its_path_and_named_by_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(INT8)
    found = scheme.find(path)
    assert (found.name, found.summary, found.interface) == ("mine", "a test's own", "keep")
    assert found == scheme.find(str(path))


def test_later_rules_win_and_unmatched_ops_keep_the_settings() -> None:
    rules = """
    [[rules]]
    match.op = "conv2d"
    activations.symmetric = true
    [[rules]]
    match.name = "head/*"
    activations.symmetric = false
    weights.granularity = "per-tensor"
    [[rules]]
    match = {op = "dense", name = "head/last"}
    activations.symmetric = true
    """
    found = layers(scheme.parse(INT8 + rules, "mine"))
    assert [name for name, layer in found.items() if layer.activations.symmetric] == ["body/a", "body/b", "head/last"]
    assert [name for name, layer in found.items() if layer.weights.granularity == "per-tensor"] == [
        "head/a",
        "head/last",
    ]


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("index = [1, 3]", ["body/b", "head/a", "flat"]),
        ("from_input = [1, 2]", ["body/a", "body/b"]),
        ("from_output = [1, 1]", ["head/last"]),
        ("from_output = [2, 4]", ["body/a", "body/b", "head/a"]),
        ("channels = [8, 12]", ["body/a", "head/last"]),
        ("{op = '*conv2d', channels = [8, 12]}", ["body/a"]),
        ("weights = [24, 64]", ["body/a", "head/a"]),
        ("{op = 'dense', weights = [100, 200]}", ["head/last"]),
        ("op = '*'", ["body/a", "body/b", "head/a", "flat", "head/last", "scores"]),
    ],
)
def test_rules_match_by_place(match: str, names: list[str]) -> None:
    key = "match = " if match.startswith("{") else "match."
    found = layers(scheme.parse(f"{INT8}[[rules]]\n{key}{match}\nactivations.symmetric = true", "mine"))
    assert [name for name, layer in found.items() if layer.activations.symmetric] == names


def test_a_rule_that_matches_no_op_of_the_model_is_an_error_unless_optional() -> None:
    rule = "[[rules]]\nmatch.name = 'head/lst'\nactivations.symmetric = true\n"
    with pytest.raises(SchemeError, match=r"^mine: rules\[0\] matches no op of the model, did you mean 'head/last'\?$"):
        layers(scheme.parse(INT8 + rule, "mine"))
    assert not layers(scheme.parse(INT8 + rule + "optional = true", "mine"))["head/last"].activations.symmetric
    kind = "[[rules]]\nmatch.op = 'add'\nactivations.symmetric = true\n"
    with pytest.raises(SchemeError, match="it has conv2d, dense, reshape, softmax; an optional rule"):
        layers(scheme.parse(INT8 + kind, "mine"))


ODD = ("a*", "ab", "conv[0]/w", "conv0/w", "two words", "first/Relu6;second/Fold;third", "x" * 50 + "y" * 50, 'a/b"c')


def odd(*more: str) -> Graph:
    """Convolutions whose names hold what patterns, tables and TOML give a meaning to."""
    net = Net()
    x = net.input("x", (1, 2, 2, 3), (0.02, 128))
    for name in (*ODD, *more):
        x = net.conv(x, name, 3, (0.1, 0))
    return net.graph(x)


def symmetric(graph: Graph, match: str) -> list[str]:
    """The ops that a rule with such a name reaches."""
    rule = f"[[rules]]\nmatch.name = {json.dumps(match)}\nactivations.symmetric = true\n"
    found = scheme.parse(INT8 + rule, "mine").layers(graph)
    return [name for name, layer in found.items() if layer.activations.symmetric]


@pytest.mark.parametrize("name", ODD)
def test_a_rule_takes_names_as_reports_print_them(name: str) -> None:
    assert symmetric(odd(), name) == [name]
    assert symmetric(odd(), short(name)) == [name]


def test_what_is_no_name_is_a_pattern() -> None:
    assert symmetric(odd(), "a?") == ["a*", "ab"]
    assert symmetric(odd(), "conv*") == ["conv[0]/w", "conv0/w"]
    assert symmetric(odd(), "conv[[]0]/w") == ["conv[0]/w"]


def test_a_shortened_name_of_several_layers_is_an_error_that_names_them() -> None:
    with pytest.raises(SchemeError, match=r"^mine: rules\[0\]\.match\.name = 'first/Relu6;…' could be 'first"):
        symmetric(odd("first/Relu6;other"), "first/Relu6;…")


@pytest.mark.parametrize("more", ["", "optional = true\n"])
def test_a_name_that_a_table_cut_is_one_layer_s(more: str) -> None:
    graph = odd("block2/depthwise", "block3/depthwise", "block4/depthwise", "block5/depthwise")
    rule = '[[rules]]\nmatch.name = "blo…ise"\nactivations.symmetric = true\n'
    with pytest.raises(SchemeError) as caught:
        scheme.parse(INT8 + rule + more, "mine").layers(graph)
    assert str(caught.value) == (
        "mine: rules[0].match.name = 'blo…ise' could be 'block2/depthwise' or 'block3/depthwise' or 'block4/depthwise' "
        "or 1 more; give more of the name, or '*' in place of '…' if all are meant"
    )
    assert symmetric(graph, "block2…ise") == ["block2/depthwise"]
    assert len(symmetric(graph, "blo*ise")) == 4


def test_other_keys_can_tell_which_layer_a_cut_name_is() -> None:
    graph = odd("block2/depthwise", "block3/depthwise")
    last = [op.name for op in graph.ops].index("block3/depthwise")
    rule = f'[[rules]]\nmatch.name = "blo…ise"\nmatch.index = [{last}, {last}]\nactivations.symmetric = true\n'
    found = scheme.parse(INT8 + rule, "mine").layers(graph)
    assert [name for name, layer in found.items() if layer.activations.symmetric] == ["block3/depthwise"]


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ("from_input = [1, 5]", "from_input = [1, 5] reaches beyond the model, which has 4 layers with weights"),
        ("from_output = [2, 9]", "from_output = [2, 9] reaches beyond the model, which has 4 layers with weights"),
        ("index = [3, 6]", "index = [3, 6] reaches beyond the model's last op, 5"),
    ],
)
def test_positions_beyond_the_model_are_errors_unless_optional(match: str, says: str) -> None:
    rule = f"[[rules]]\nmatch.{match}\nactivations.symmetric = true\n"
    with pytest.raises(SchemeError) as caught:
        layers(scheme.parse(INT8 + rule, "mine"))
    assert str(caught.value) == f"mine: rules[0].match.{says}"
    layers(scheme.parse(INT8 + rule + "optional = true", "mine"))


def test_a_rule_for_all_ops_survives_being_written() -> None:
    found = scheme.parse(INT8 + "[[rules]]\nmatch.op = '*'\nactivations.symmetric = true", "mine")
    assert scheme.parse(scheme.dump(found), "mine") == found


def test_int8_follows_the_specification_for_fully_connected_layers() -> None:
    for name in ("int8", "symmetric-int8"):
        found = layers(scheme.find(name))
        assert found["head/last"].weights.granularity == "per-tensor"
        assert found["head/a"].weights.granularity == "per-channel"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            INT8.replace("symmetric = false", "symetric = false"),
            "key activations.symetric is unknown, did you mean 'symm",
        ),
        (INT8.replace("[weights]", "[weight]"), "key weight is unknown, did you mean 'weights'?"),
        (
            INT8 + "[[rules]]\nmatch.opp = 'dense'\nweights.dtype = 'int8'",
            "key rules[0].match.opp is unknown, did you mean",
        ),
        (INT8 + "[[rules]]\nmatch.op = 'dense'\nweight.dtype = 'int8'", "key rules[0].weight is unknown, did you mean"),
        (
            INT8 + "[[rules]]\nmatch.op = 'conv4d'\nweights.dtype = 'int8'",
            "rules[0].match.op = 'conv4d' matches no op, did you",
        ),
        (INT8 + "[[rules]]\nmatch.op = 'dense'", "rules[0] sets nothing"),
        (INT8 + "[[rules]]\nweights.symmetric = true", "rules[0] has no match; say which layers it is for"),
        (INT8 + "[[rules]]\nmatch = {}\nweights.symmetric = true", "rules[0] has no match"),
        (INT8 + "[[rules]]\nmatch.from_input = [0, 1]\nweights.symmetric = true", "must start at 1 or later"),
        (INT8 + "[[rules]]\nmatch.index = [-1, 1]\nweights.symmetric = true", "must start at 0 or later"),
        (
            INT8 + "[[rules]]\nmatch.op = 'dense'\nweights.dtype = 'int9'",
            "rules[0].weights.dtype = 'int9' is not one of",
        ),
        (INT8.replace('"int8"', '"int7"', 1), "activations.dtype = 'int7' is not one of"),
        (INT8.replace("symmetric = true", "symmetric = 1"), "weights.symmetric = 1 is not one of True, False"),
        (
            INT8.replace("symmetric = true", 'symmetric = "true"'),
            "weights.symmetric = 'true' is not one of True, False",
        ),
        (INT8.split("[weights]")[0], "[weights] is missing"),
        (INT8.replace('dtype = "int8"', "", 1), "activations.dtype is missing"),
        ("interface = 'both'" + INT8, "interface = 'both' is not one of keep, scheme"),
        ("rules = 3" + INT8, "rules must be a list of tables"),
        ("rules = [3]" + INT8, "must be a table"),
        ("activations = 3\n[weights]\ndtype = 'int8'", "activations must be a table"),
        (INT8.replace("symmetric = true", "symmetric = false"), "int8 weights need symmetric = true"),
        (INT8.replace('"int8"', '"uint8"', 1), "uint8 activations need uint8 weights"),
        (INT8.replace('"int8"', '"uint8"'), "uint8 weights need symmetric = false"),
        (INT8.replace('"int8"', '"int16"', 1), "int16 activations need symmetric = true"),
        (INT8 + "[rescale]\narithmetic = 'shift'", "arithmetic = 'shift' needs scale = 'power-of-two'"),
        (INT8 + "percentile = 0", "weights.percentile = 0 is not in (0, 100]"),
        (INT8 + "percentile = true", "weights.percentile = True must be a number"),
        (
            INT8 + "[[rules]]\nmatch.index = 3\nweights.symmetric = true",
            "match.index = 3 must be a range [first, last]",
        ),
        (INT8 + "[[rules]]\nmatch.index = [3, 2]\nweights.symmetric = true", "must be a range [first, last]"),
        (INT8 + "[[rules]]\noptional = 1\nweights.symmetric = true", "rules[0].optional = 1 is neither true nor false"),
        (INT8.replace("[weights]", "[weights"), "is not valid TOML"),
        (INT8 + INT8, "is not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(text: str, says: str) -> None:
    assert says in failure(text)


def test_a_scheme_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"scheme 'int-8' does not exist, did you mean 'int8'\?"):
        scheme.find("int-8")
    with pytest.raises(SchemeError, match=r"absent\.toml: cannot be read: No such file"):
        scheme.find(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"summary = '\xe9'")
    with pytest.raises(SchemeError, match="is not a text file"):
        scheme.find(tmp_path / "latin.toml")


def test_several_schemes_are_a_sequence_or_a_text_with_commas(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(INT8)
    for given in ("int8, int8-w4,", ("int8", "int8-w4"), [scheme.find("int8"), "int8-w4"]):
        assert [each.name for each in scheme.find_all(given)] == ["int8", "int8-w4"]
    for single in (scheme.find("int8"), tmp_path / "own.toml"):
        assert scheme.find_all(single) == [scheme.find(single)]


def test_a_rule_may_make_one_layer_impossible_and_the_message_names_it() -> None:
    found = scheme.parse(INT8 + "[[rules]]\nmatch.name = 'head/a'\nweights.symmetric = false\n", "mine")
    with pytest.raises(SchemeError, match=r"^mine: for q\.conv2d 'head/a': int8 weights need symmetric = true$"):
        layers(found)


def test_wrong_scheme_files_leave_with_code_2_and_one_line(
    cli: Callable[..., Outcome], digits: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(INT8.replace("granularity", "granulrity"))
    outcome = cli("convert", digits, "--scheme", path, "-o", tmp_path / "out.tflite")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "granulrity is unknown, did you mean 'granularity'?" in outcome.err
    assert not (tmp_path / "out.tflite").exists()
