"""README, CONTRIBUTING and docs: every code block runs, every command parses, every link leads to a file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from support import ROOT

from common.backends import registry
from common.cli.main import cli

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]
OWN_TESTS = {"docs/pitfalls.md": "tests/mutants/test_pitfalls.py"}
"""Pages whose examples another test runs."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, the word after it, and the reason not to run it, if there is one."""

    line: int
    language: str
    backend: str
    reason: str
    code: str


def blocks(page: str) -> Iterator[Block]:
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text()):
        if token.type == "fence":
            words, _, reason = token.info.partition("notest:")
            language, backend, *_ = [*words.split(), "", ""]
            if language in ("sh", "python"):
                yield Block(token.map[0] + 1, language, backend, reason.strip(), token.content)


def commands(page: str) -> Iterator[str]:
    """The lines of shell blocks and the inline code that call `rosetta`."""
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text()):
        if token.type == "fence" and token.info.startswith("sh"):
            yield from token.content.replace("\\\n", " ").splitlines()
        yield from (child.content for child in token.children or () if child.type == "code_inline")


@pytest.mark.parametrize("page", PAGES)
def test_every_rosetta_command_parses(page: str) -> None:
    for text in commands(page):
        if not re.match(r"(?:\.tox/parity/bin/)?rosetta [a-z]+ ", text):
            continue
        _, verb, *arguments = shlex.split(text, comments=True)
        if "--help" in arguments or not arguments:
            continue
        assert verb in cli.commands, text
        try:
            cli.commands[verb].make_context(verb, list(arguments))
        except click.MissingParameter:
            pass  # an inline mention, such as `rosetta site --parity report.json`
        except click.ClickException as error:
            pytest.fail(f"{page}: {text}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [
        target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert not missing


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_a_block_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.backend != "notest", f"{page}, line {block.line}: write `notest: reason`"


@pytest.mark.across
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_runs(page: str, tmp_path: Path) -> None:
    if page in OWN_TESTS:
        assert (ROOT / OWN_TESTS[page]).exists()
        return
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "report"):
            (tmp_path / entry.name).symlink_to(entry)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT)}
    for block in blocks(page):
        if block.reason:
            continue
        program = ["bash", "-euo", "pipefail", "-c"]
        if block.language == "python":
            interpreter = registry.find_interpreter(block.backend) if block.backend else None
            program = [str(interpreter.path) if interpreter else sys.executable, "-c"]
        result = subprocess.run(
            [*program, block.code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, f"{page}, line {block.line}:\n{block.code}\n{result.stdout}{result.stderr}"
