"""Reading what people write: lines, bounds, hostile input, and nothing read into a value."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muniment.judge import documents
from muniment.judge.documents import Map, Problems, canonical, line_of, read


def trees(text: str) -> tuple[list[Map], list[str]]:
    problems = Problems()
    found = list(read("f.yaml", text, problems))
    return found, [f"{problem.where} {problem.what}" for problem in problems.sorted()]


def the_problem(text: str) -> str:
    _, problems = trees(text)
    assert len(problems) == 1, problems
    return problems[0]


leaves = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=20)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(leaves.filter(bool), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(leaves.filter(bool), values, max_size=4))
def test_a_canonical_text_reads_back_as_the_same_tree(tree: dict[str, object]) -> None:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    found, problems = trees(text)
    assert not problems
    assert [canonical(node) for node in found] == [text]


@given(st.text(max_size=60) | st.text("-: \n\t[]{},&*!|>'\"#%?ab", max_size=60))
def test_any_text_gives_trees_or_problems_and_never_another_error(text: str) -> None:
    trees(text)


def test_a_value_is_what_was_written_and_nothing_is_read_into_it() -> None:
    [tree], problems = trees("a: 0123\nb: no\nc: 1e3\nd: 2027-06-30\ne: 12:30\nf: null\ng: ~\nh: 0x1F\ni: ''\n")
    assert not problems
    assert canonical(tree) == (
        '{"a":"0123","b":"no","c":"1e3","d":"2027-06-30","e":"12:30","f":"null","g":"~","h":"0x1F","i":""}'
    )


def test_each_thing_knows_its_line_over_several_documents() -> None:
    found, _ = trees("# first\na: 1\n---\n\nb:\n  - x\n  - c: 2\n    d: 3\n--- # third\ne: 4\n")
    assert [tree.line for tree in found] == [2, 5, 10]
    assert [line_of(found[1], path) for path in (["b"], ["b", 0], ["b", 1, "d"], ["b", 7], ["nothing"])] == [
        5,
        6,
        8,
        5,
        5,
    ]


def test_windows_line_ends_and_a_byte_order_mark_are_read() -> None:
    [tree], problems = trees("\ufeffa: 1\r\nb: 2\r\n")
    assert (canonical(tree), problems, tree.lines) == ('{"a":"1","b":"2"}', [], {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n\tb: 2\n", "f.yaml:2 a tab cannot indent a line in YAML"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2 this is not YAML: did not find expected ',' or ']'"),
        ("a: 1\na: 2\n", "f.yaml:2 `a` occurs twice, first in line 1"),
        ("a: 1\nb:\n", "f.yaml:2 `b` has no value"),
        ("a:\n- x\n-\n", "f.yaml:3 an item of the list is empty"),
        ("- a\n- b\n", "f.yaml:1 a document is fields with values, not a single value or a list"),
        ("just words\n", "f.yaml:1 a document is fields with values, not a single value or a list"),
        ("a: !!python/object/apply:os.system [id]\n", "f.yaml:1 a tag is not read"),
        ("a: !secret x\n", "f.yaml:1 a tag is not read"),
        ("a: *nothing\n", "f.yaml:1 the alias *nothing has no finished anchor before it"),
        ("a: &x [*x]\n", "f.yaml:1 the alias *x has no finished anchor before it"),
        ("? [a]\n: b\n", "f.yaml:1 the name of a field is not a plain word"),
        ("%TAG ! x\n--- \n", "f.yaml:1 a % directive is not read"),
        ("a: \x00\n", "f.yaml:1 the character U+0000 does not belong in a document"),
        ('a: "\u202a"\nb: "\u2028"\n', "f.yaml:2 the character U+2028 does not belong in a document"),
    ],
)
def test_a_mistake_is_a_problem_with_its_line(text: str, said: str) -> None:
    assert the_problem(text).startswith(said)


def test_a_mistake_in_one_document_leaves_the_others_readable() -> None:
    found, problems = trees("a: 1\n---\nb: [\n---\nc: *no\n---\nd: 4\n")
    assert [canonical(tree) for tree in found] == ['{"a":"1"}', '{"d":"4"}']
    assert [problem.split()[0] for problem in problems] == ["f.yaml:4", "f.yaml:5"]


def test_an_alias_stands_for_what_it_names() -> None:
    [tree], problems = trees("a: &x {b: 1}\nc: [*x, *x]\n")
    assert (canonical(tree), problems) == ('{"a":{"b":"1"},"c":[{"b":"1"},{"b":"1"}]}', [])


def test_an_alias_bomb_is_stopped_before_it_is_spread_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 15)]
    assert "values, aliases expanded" in the_problem("\n".join(lines))


def test_more_aliases_than_anybody_needs_are_refused() -> None:
    assert "more than 200 aliases" in the_problem("a: &x y\nb: [" + "*x, " * 201 + "]")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack(opening: str) -> None:
    assert "nested deeper than" in the_problem("a:\n  " + opening * 20_000)


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a value is longer than" in the_problem("a: " + "x" * 9000)
    monkeypatch.setattr(documents, "MAX_CHARS", 10)
    assert "the file is too long" in the_problem("a: 12345678901")


def test_what_is_said_about_broken_yaml_repeats_no_value() -> None:
    for text in ("a: {b: hunter2\nc: ]", "password: 'hunter2\n", "a: hunter2: x", "password: hunter2\n\tx: hunter2"):
        assert "hunter2" not in str(trees(text)[1])
