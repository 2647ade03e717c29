"""The README and docs/: every command names what exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import train_iemocap
import train_mosi
import train_pom
from search.options import Parser
from training.result import Scored

PAGES = [
    *(ROOT / name for name in ("README.md", "data/README.md", "models/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
INLINE = re.compile(r"`((?:python3?|make) [^`]+)`")
ASSIGNMENT = re.compile(r"([A-Za-z_]+)=(.*)", re.DOTALL)
TOOLS = {"source": 1, "ruff": 1, "pyright": 0, "ray": 1, "scontrol": 1}  # least words after them
MODULES = ("pip", "pytest", "venv")
SCRIPTS = [train_mosi, train_iemocap, train_pom]


class Found(Exception):
    """A script's parser, in place of what the script does once its flags are read."""


def commands(page: Path) -> Iterator[str]:
    """Yields the shell commands that a page prints, output in the same blocks left out."""
    text = page.read_text(encoding="utf-8")
    blocks = [code for kind, code in FENCE.findall(text) if kind in ("", "bash", "sh")]
    prose = FENCE.sub("", text)
    blocks += [block for block in INDENTED.findall(prose) if is_shell(block)]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if line.partition("#")[0].strip():
                yield line.strip()
    yield from INLINE.findall(prose)


def is_shell(block: str) -> bool:
    """Returns whether a block holds commands: the others show what a command prints."""
    first = block.split()[0]
    return first in ("python", "python3", "make", *TOOLS)


def check(line: str) -> None:
    """Raises AssertionError, or what the parser raises, if a command names what isn't there."""
    words = shlex.split(line, comments=True)
    if words[0] == "srun":
        words = words[1:]
        if "--" in words:
            check(shlex.join(words[words.index("--") + 1 :]))
            words = words[: words.index("--")]
    name, *rest = words
    if name in ("python", "python3"):
        check_python(rest)
    elif name == "make":
        check_make(rest)
    elif found := ASSIGNMENT.fullmatch(line):
        check(found[2].removeprefix("$(").removesuffix(")").partition(" | ")[0])
    else:
        assert len(rest) >= TOOLS[name]


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert words[1] in MODULES
        for word in words[2:]:
            if re.search(r"\.(txt|py)$", word):
                assert (ROOT / word).is_file(), word
        return
    script, *flags = words
    assert (ROOT / script).is_file(), script
    parser_of(script).parse_args(flags)


def parser_of(script: str) -> Parser:
    """Returns the parser that a script's main makes."""

    def parse_args(self: Parser, *_: object) -> None:
        raise Found(self)

    main = import_module(script.removesuffix(".py").replace("/", ".")).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", parse_args)
        try:
            main()
        except Found as found:
            return found.args[0]
    raise AssertionError(f"{script} reads no flags")


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([\w%-]+):", makefile, re.MULTILINE)
    for word in words:
        if found := ASSIGNMENT.fullmatch(word):
            assert re.search(rf"^{found[1]} [?:]=", makefile, re.MULTILINE), word
            if found[1] == "FLAGS":
                parser_of("train_mosi.py").parse_args(shlex.split(found[2]))
        else:
            patterns = [rule.replace("%", "(mosi|iemocap|pom)") for rule in rules]
            assert any(re.fullmatch(pattern, word) for pattern in patterns), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_scripts_files_and_flags_that_exist(page: Path) -> None:
    lines = list(commands(page))
    assert lines or page.parent.name == "models" or page.stem in ("metrics", "differences")
    for line in lines:
        try:
            check(line)
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}: {error!r}") from error


@pytest.mark.parametrize(
    "line",
    [
        "python train_mosi.py --epochz 3",
        "python train_mosy.py",
        "python data/prepare.py download",
        "python -m pytest tests/test_rows.py",
        "python benchmarks/costs.py rates",
        "make papers",
        "make paper SIZE=3",
        'make paper FLAGS="--epoch 3"',
        "srun ray start -- python train_mosi.py --clusters auto",
        "lmf train",
    ],
)
def test_a_command_that_went_stale_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"."):
        check(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        place, _, heading = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, link


def test_the_readme_names_every_flag_of_the_train_scripts() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        flags = vars(parser_of(f"{script.__name__}.py"))["_option_string_actions"].keys()
        assert len(flags) >= 17
        assert [flag for flag in flags - {"-h", "--help"} if f"`{flag}" not in text] == []


def test_the_help_of_every_script_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    paths = [path for folder in (".", "*") for path in ROOT.glob(f"{folder}/*.py")]
    names = [
        str(path.relative_to(ROOT)) for path in paths if "run_script(main)" in path.read_text()
    ]
    scripts = [name for name in names if not name.startswith("tests")]
    assert len(scripts) >= 12
    commands = ("python ", "make ", "    python ", "    make ")
    for script in scripts:
        lines = parser_of(script).format_help().splitlines()
        assert [x for x in lines if len(x) > 80 and not x.startswith(commands)] == [], script


def section(title: str) -> str:
    """Returns a section of the page on metrics."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_on_metrics_has_every_column() -> None:
    for script, title in zip(SCRIPTS, ("MOSI", "IEMOCAP", "POM"), strict=True):
        columns = set(re.findall(r"^\| `?([^|`]+)`? \|", section(title), re.MULTILINE))
        columns |= set(re.findall(r"^\| ([^|]+) \|", section("In every file"), re.MULTILINE))
        columns |= set(re.findall(r"\w+", section("In every file").partition("\n|")[0]))
        columns |= {
            column.replace("<Trait>", trait)
            for column in columns
            for trait in train_pom.TRAITS
            if "<Trait>" in column
        }
        assert [column for column in script.COLUMNS.all() if column not in columns] == []


def example(title: str) -> dict[str, list[str]]:
    """Returns the cells of a section's tables, by their rows' first ones."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {name: cells for name, *cells in rows}


def test_the_worked_example_of_the_metrics_is_right() -> None:
    table = example("A worked example")
    label, output = (np.array(table[name], np.float32)[:, None] for name in ("label", "prediction"))
    loss = float(train_mosi.loss(torch.from_numpy(output), torch.from_numpy(label)).mean())
    scores = train_mosi.scores(Scored(loss, loss, output, label, output, label))
    assert scores == pytest.approx({name: float(table[name][0]) for name in scores}, abs=5e-5)


def test_the_example_of_weighted_f1_is_right() -> None:
    title = "Weighted F1 and the emotion's own"
    table = example(title)
    label, output = (np.eye(2)[np.array(table[name], int)] for name in ("label", "prediction"))
    scores = train_iemocap.scores(Scored(0, 0, output, label, output, label), present=1)
    del scores["Test CrossEntropyLoss"]
    assert scores == pytest.approx({name: float(table[name][0]) for name in scores}, abs=5e-5)
    absent = np.eye(2)[np.zeros(8, int)]
    scores = train_iemocap.scores(Scored(0, 0, absent, label, absent, label), present=1)
    said = ", ".join(f"{scores[name]:.4f}" for name in table if name in scores)
    assert said.replace("0, 0.6", "0 and 0.6") in section(title)
