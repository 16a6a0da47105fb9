"""Tests of the pitfalls: parity locates each mistake, and docs/pitfalls.md shows current results."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from common.errors import BackendError
from common.mutants import page, pitfalls, run
from common.mutants.run import Outcome

TEXT = page.PAGE.read_text(encoding="utf-8")
EXAMPLES = list(page.examples(TEXT))
STALE = f"docs/pitfalls.md is out of date; `{page.COMMAND}` updates it"


def assert_prints_what_the_page_says(backend_name: str) -> None:
    own = [example for example in EXAMPLES if example.backend == backend_name]
    assert own
    for example, printed in zip(own, page.outputs([example.code for example in own], sys.executable), strict=True):
        message = f"{STALE}. Pitfall {example.pitfall} in {backend_name} prints {printed!r}, not {example.output!r}"
        assert page.same_output(example.output, printed), message


def test_every_pitfall_has_a_port_that_can_have_it_or_a_reason() -> None:
    assert [pitfall.number for pitfall in pitfalls.PITFALLS] == list(range(1, 29))
    for pitfall in pitfalls.PITFALLS:
        assert pitfall.edits or pitfall.nowhere
        assert bool(pitfall.edits) == bool(pitfall.networks)


def test_every_pitfall_has_a_section_that_can_be_linked_to_an_example_and_its_ports() -> None:
    for pitfall in pitfalls.PITFALLS:
        number = pitfall.number
        assert TEXT.count(f'<a id="pitfall-{number}"></a>\n\n### {number}. ') == 1
        assert TEXT.count(f"| [{number}](#pitfall-{number}) | ") == 1
        assert any(example.pitfall == number for example in EXAMPLES)
    assert set(page.page_rows(TEXT)) == {(p.number, backend) for p in pitfalls.PITFALLS for backend in p.edits}
    assert TEXT.count("```python ") == len(EXAMPLES)  # none that is not run


def test_the_examples_without_a_framework_print_what_the_page_says() -> None:
    assert_prints_what_the_page_says("numpy")


@pytest.mark.port
def test_the_examples_print_what_the_page_says(backend_name: str) -> None:
    assert_prints_what_the_page_says(backend_name)


@pytest.fixture(scope="module")
def outcomes(backend_name: str, request: pytest.FixtureRequest) -> Sequence[Outcome]:
    mutants = list(pitfalls.pitfall_mutants(backend_name))
    if not request.config.getoption("--thorough"):  # all of them take minutes; every fourth pitfall runs
        names = list(dict.fromkeys(mutant.name for mutant in mutants))[::4]
        mutants = [mutant for mutant in mutants if mutant.name in names]
    return run.run(mutants, [backend_name])


@pytest.mark.port
def test_every_pitfall_is_found_where_it_is(outcomes: Sequence[Outcome]) -> None:
    assert outcomes
    for outcome in outcomes:
        if outcome.mutant.reason:
            assert outcome.status == "equivalent", outcome
        else:
            assert outcome.status == "killed", outcome
            assert outcome.named is not False, outcome


@pytest.mark.port
def test_the_page_says_what_parity_finds(outcomes: Sequence[Outcome]) -> None:
    shown = page.page_rows(TEXT)
    for (number, backend), row in page.rows(outcomes).items():
        assert page.same_output(shown[number, backend], row), (
            f"{STALE}. Pitfall {number} has {shown[number, backend]}, not {row}"
        )


SMALL = """### 7. Of nine

```python numpy
print("3 by 3,", 9 / 7)
```

```text
old
```

<!-- parity 7 -->

<!-- end -->

```python torch
print()
```

```text
```

### 8. Of ten

<!-- parity 8 -->

| port | found by | first at | error |
|---|---|---|---|
| jax | forward | bn | 9.9e-01 |

<!-- end -->
"""


def test_a_page_is_updated() -> None:
    first, second = page.examples(SMALL)
    assert (first.pitfall, first.backend, first.code) == (7, "numpy", 'print("3 by 3,", 9 / 7)\n')
    assert (first.output, second.output) == ("old\n", "")
    printed = dict(zip((first, second), page.outputs([first.code, second.code], sys.executable), strict=True))
    assert printed == {first: "3 by 3, 1.2857142857142858\n", second: "\n"}
    found = {(7, "tf"): "| tf | forward | conv1 | 1.3e+00 |", (8, "jax"): "| jax | nothing | | |"}
    text = page.updated(SMALL, printed, found)
    assert [example.output for example in page.examples(text)] == list(printed.values())
    assert page.page_rows(text) == found
    assert page.updated(text, {e: e.output for e in page.examples(text)}, found) == text


def test_an_example_that_fails_says_how() -> None:
    with pytest.raises(BackendError, match=r"^an example of pitfalls\.md fails: ZeroDivisionError: division by zero$"):
        page.outputs(["print(1)", "print(1 / 0)"], sys.executable)


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("| tf | forward | conv1 | 1.3e+00 |", "| tf | forward | conv1 | 1.4e+00 |", True),
        ("| tf | forward | conv1 | 1.3e+00 |", "| tf | forward | conv1 | 1.5e+00 |", False),
        ("| tf | forward | conv1 | 9.9e-01 |", "| tf | forward | conv1 | 1.0e+00 |", True),
        ("| tf | forward | conv1 | 1.3e+00 |", "| tf | forward | conv2 | 1.3e+00 |", False),
        ("| tf | forward | conv1 | 1.3e+00 |", "| tf | nothing | | |", False),
        ("(1, 4) by 0.57", "(1, 4) by 0.58", True),
        ("(1, 4) by 0.57", "(1, 5) by 0.57", False),
        ("179,290 parameters", "179,291 parameters", False),
        ("-1.00", "1.00", False),
        ("True", "False", False),
    ],
)
def test_a_fraction_may_be_off_by_one_in_its_last_digit(expected: str, actual: str, same: bool) -> None:
    assert page.same_output(expected, actual) is same
