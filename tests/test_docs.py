"""Documentation that holds: links, commands, settings, code. Each check is shown to be able to fail."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from myst_parser.slugs import github_slugify

from shutterless.pipeline.detection.vetoes import VETOES
from shutterless.pipeline.events.kinds import KIND_TABLE, NOISE
from shutterless.pipeline.reading.instruments import ProfileError, load_profile
from shutterless.pipeline.settings import SettingsError
from shutterless.workflows import cli
from shutterless.workflows.commands.application import COMMAND_GROUPS
from shutterless.workflows.commands.console import split_set
from shutterless.workflows.execution.slurm import SlurmSettings
from shutterless.workflows.settings.settings import Settings, SimulateSettings, load_scene, load_settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SOURCES = ("pipeline", "models", "workflows", "benchmarks", "notebooks", "tests", "docs")
CHECKED = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mlflow/README.md"))]
WITHOUT_SETTINGS = ("simulate",)  # whose --set names a value of the scene
_REMOTE = re.compile(r"[a-z]+:")
_SHELL_END = ("|", "||", "&", "&&", ";", ">", ">>", "<", "(", ")")


def tokens_of(text: str) -> list[Token]:
    """Markdown tokens, without front matter."""
    return MarkdownIt("commonmark").enable("table").parse(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))


def inline_of(text: str) -> Iterator[Token]:
    """Every token within lines: text, code, links."""
    for token in tokens_of(text):
        yield from token.children or ()


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of one language."""
    return [token.content for token in tokens_of(text) if token.type == "fence" and token.info.strip() == language]


def anchors_of(text: str) -> set[str]:
    """Anchors of the headings, as GitHub and the site make them."""
    tokens, seen = tokens_of(text), []
    for heading, content in pairwise(tokens):
        if heading.type == "heading_open":
            words = [t.content for t in content.children or () if t.type in ("text", "code_inline")]
            slug = github_slugify("".join(words))
            seen.append(f"{slug}-{seen.count(slug)}" if slug in seen else slug)
    return set(seen)


def page_text(path: Path) -> str:
    """Text of a page; of commands and settings with what the build puts in."""
    text = path.read_text(encoding="utf-8")
    return expand(text, path) if "<!-- " in text and "<!-- modules" not in text else text


def expand(text: str, path: Path) -> str:
    sys.path.insert(0, str(DOCS / "extensions"))
    try:
        return importlib.import_module("generated_pages").expand(text, path)
    finally:
        sys.path.remove(str(DOCS / "extensions"))


def broken_links(path: Path) -> list[str]:
    """Links of a page to files or headings that do not exist."""
    text, found = page_text(path), []
    targets = [t.attrs.get("href") or t.attrs.get("src") for t in inline_of(text) if t.type in ("link_open", "image")]
    for target in map(str, targets):
        file, _, anchor = target.partition("#")
        if _REMOTE.match(target):
            continue
        goal = (path.parent / file).resolve() if file else path
        if not goal.exists():
            found.append(f"{path.name}: {target} is no file")
        elif goal.is_file() and anchor and anchor not in anchors_of(text if goal == path else page_text(goal)):
            found.append(f"{path.name}: {target} is no heading")
    return found


def missing_files(text: str) -> list[str]:
    """Python files that a page names, by their path or its end, and that are not in the repository."""
    here = {path.relative_to(ROOT).as_posix() for room in SOURCES for path in (ROOT / room).rglob("*.py")}
    codes = " ".join(token.content for token in inline_of(text) if token.type == "code_inline")
    named = dict.fromkeys(word for word in re.findall(r"[\w./-]+\.py\b", codes) if "NAME" not in word)
    return [word for word in named if not any(f"/{path}".endswith(f"/{word}") for path in here)]


def command_lines(text: str) -> Iterator[list[str]]:
    """Arguments of every call of shutterless in shell blocks, indented ones included."""
    scripts = [t.content for t in tokens_of(text) if t.type == "code_block" or t.info.strip() in ("sh", "bash")]
    for line in "\n".join(scripts).replace("\\\n", " ").splitlines():
        if "shutterless" not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, words = True, []
        for word in [*lexer, ";"]:
            if word not in _SHELL_END:
                words.append(word)
                continue
            while words and "=" in words[0]:
                words.pop(0)
            if words and Path(words[0]).name == "shutterless" and len(words) > 1:
                yield words[1:]
            words = []


def wrong_commands(text: str) -> list[str]:
    """Calls of commands, options or settings that do not exist, in shell blocks and within lines."""
    found = [f"{shlex.join(words)}: {reason}" for words in command_lines(text) if (reason := refuse(words))]
    group = typer.main.get_command(cli.app)
    for code in (token.content for token in inline_of(text) if token.type == "code_inline"):
        called = re.match(rf"shutterless ((?:{'|'.join(COMMAND_GROUPS)}) \S+|[a-z]\S*)(.*)", code)
        if not called:
            continue
        command = group.commands.get(called[1])
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} if command else set()
        wrong = [option for option in re.findall(r"--[a-z-]+", called[2]) if option not in {*known, "--help"}]
        if command is None or wrong:
            found.append(f"{code}: no such {'command' if command is None else f'option {wrong}'}")
    return found


def refuse(words: list[str]) -> str:
    """Why a call would be refused before it does anything; empty where it would not."""
    group = typer.main.get_command(cli.app)
    name, *arguments = [" ".join(words[:2]), *words[2:]] if words[0] in COMMAND_GROUPS else words
    if name.startswith("--"):
        return "" if name in ("--help", "--version") else f"no such option {name}"
    if name not in group.commands:
        return f"no such command {name}"
    try:
        context = group.commands[name].make_context(name, arguments)
    except typer.Exit:  # --help
        return ""
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return error.format_message()
    return refuse_settings(name, context.params.get("set_") or [])


def refuse_settings(command: str, changes: list[str]) -> str:
    """Why ``--set`` would be refused."""
    try:
        if command in WITHOUT_SETTINGS:
            load_scene({"sequence": "s", "seed": 1}, changes)
        else:
            load_settings(None, split_set(changes)[0])
    except SettingsError as error:
        return str(error)
    return ""


def wrong_python(text: str) -> list[str]:
    """Python blocks that do not compile, and names that shutterless does not have."""
    found = []
    for block in blocks(text, "python"):
        try:
            compile(block, "block", "exec")
        except SyntaxError as error:
            found.append(f"{error.msg}: {error.text}")
            continue
        for module, names in re.findall(r"^\s*from (shutterless[\w.]*) import ([\w, ]+)", block, re.MULTILINE):
            if not (found_in := _import(module)):
                found.append(f"no module {module}")
                continue
            found += [f"{module} has no {name}" for name in re.findall(r"\w+", names) if not hasattr(found_in, name)]
    return found


def _import(module: str) -> object | None:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


def wrong_toml(text: str, folder: Path) -> list[str]:
    """TOML blocks that do not parse, or are refused as what they look like: a profile, settings, a cluster."""
    found, path = [], folder / "block.toml"
    for block in blocks(text, "toml"):
        path.write_text(block, encoding="utf-8")
        load_profile.cache_clear()
        try:
            keys = set(tomllib.loads(block))
            if "keywords" in keys:
                load_profile(str(path))
            elif keys <= {field.name for field in fields(Settings)}:
                load_settings(path)
            elif keys <= {field.name for field in fields(SlurmSettings)}:
                SlurmSettings(**tomllib.loads(block))
        except (ValueError, ProfileError) as error:  # that of TOML and of pydantic are ValueErrors
            found.append(f"{block.strip().splitlines()[0]}: {error}")
    return found


def pages_of_the_tree(root: Path, start: str = "index.md") -> set[Path]:
    """Pages that one comes to by the tables of contents."""
    seen, waiting = set(), [root / start]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        for content in blocks(page.read_text(encoding="utf-8"), "{toctree}"):
            names = [line for line in content.splitlines() if line and not line.startswith(":")]
            for name in names:
                waiting += page.parent.glob(f"{name}.md") if ":glob:" in content else [page.parent / f"{name}.md"]
    return seen


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_commands_and_code_of_a_page_hold(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    assert broken_links(path) == []
    assert missing_files(text) == []
    assert wrong_commands(text) == []
    assert wrong_python(text) == []
    assert wrong_toml(text, tmp_path) == []


def test_every_page_is_in_the_table_of_contents():
    assert set(PAGES) - pages_of_the_tree(DOCS) == set()


def test_the_reference_has_every_command_option_and_setting():
    commands, settings = page_text(DOCS / "reference/commands.md"), page_text(DOCS / "reference/settings.md")
    for name, command in typer.main.get_command(cli.app).commands.items():
        section = commands.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        options = [p.opts[-1] for p in command.params if p.param_type_name == "option" and p.name != "help"]
        assert section, name
        assert [option for option in options if option not in section] == []
    for section, kind in get_type_hints(Settings).items():
        assert f"[{section}" in settings
        text = settings.partition(f"\n## `[{section}]`\n")[2].partition("\n## ")[0]
        keys = [field.name for field in fields(kind)] if is_dataclass(kind) else []
        of_their_own = ("grid", "architecture", *(field.name for field in fields(SimulateSettings)))
        assert [key for key in keys if f"`{key}" not in text and key not in of_their_own] == []


def test_kinds_and_vetoes_are_on_the_pages_with_what_they_mean():
    kinds, vetoes = page_text(DOCS / "simulator.md"), page_text(DOCS / "reference/quality.md")
    assert [
        name for name, kind in KIND_TABLE.items() if name != NOISE and f"| `{name}` | {kind.what} |" not in kinds
    ] == []
    assert [v.name for v in VETOES if f"| `{v.name}` | {v.meaning} | {v.limit} | {v.cause} |" not in vetoes] == []
    assert "| `occultation` | Fresnel diffraction" in kinds
    assert "time in which the shadow moves by a Fresnel scale: 0.033–0.2 s | 0.1–1 | Roques" in kinds


def test_every_module_is_on_one_page_of_the_reference():
    expand("", DOCS / "index.md")
    generated = sys.modules["generated_pages"]
    placed, known = generated.placed_modules(), generated.all_modules()
    assert len(placed) == len(set(placed))
    assert set(placed) == set(known)


def test_a_module_that_no_page_of_the_reference_names_is_found(monkeypatch):
    expand("", DOCS / "index.md")
    generated = sys.modules["generated_pages"]
    monkeypatch.setattr(
        generated, "_written_names", lambda: ["pipeline.files", "pipeline.store.store", "pipeline.store.*"]
    )
    assert generated.placed_modules()[:3] == ["pipeline.files", "pipeline.store.store", "pipeline.store.ingest"]
    assert "pipeline.psf" in set(generated.all_modules()) - set(generated.placed_modules())


def test_links_of_pages_from_elsewhere_are_put_right():
    page = DOCS / "project/readme.md"
    source = "[a](docs/scale.md#as-it-happens) ![b](docs/figures/frame.png) [c](pipeline) [d](CHANGELOG.md) [e](#f)"
    expand("", page)
    redirected = sys.modules["generated_pages"].redirect_links(source, ROOT / "README.md", page)
    assert redirected == "[a](../scale.md#as-it-happens) ![b](../figures/frame.png) c [d](changelog.md) [e](#f)"


def test_broken_links_are_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One `two`\n\n## Three\n\n## Three\n")
    page.write_text("# Here\n\n[a](other.md#one-two) [b](#here) [c](other.md#three-1) [d](https://example.org/x)\n")
    assert broken_links(page) == []
    page.write_text("[a](gone.md) ![b](gone.png) [c](other.md#four) [d](#nowhere)\n\n```text\n[e](no-link.md)\n```\n")
    assert broken_links(page) == [
        "page.md: gone.md is no file",
        "page.md: gone.png is no file",
        "page.md: other.md#four is no heading",
        "page.md: #nowhere is no heading",
    ]


def test_files_that_are_not_there_are_found():
    there = (
        "`test_docs.py`, `tests/test_docs.py`, `reading/frames.py`, `python pipeline/psf.py --x`, `tests/test_NAME.py`"
    )
    assert missing_files(there) == []
    assert missing_files("`levels.py` `docs.py`, `serial trap.py` `pipeline/store/exposure.py`\n") == [
        *("levels.py", "docs.py", "trap.py", "pipeline/store/exposure.py")
    ]
    assert missing_files("```python\nopen('new.py')\n```\nand words.py") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("shutterless find x.fits", "no such command find"),
        ("cd x && .venv/bin/shutterless search x.fits --modle cnn", "No such option: --modle"),
        ("A=1 shutterless train", "Missing argument 'store'"),
        ("shutterless train store --model gru > log", "is not one of"),
        ("shutterless train store --set train.epoch=3", "did you mean 'epochs'"),
        ("shutterless simulate --out x --set row_rat_hz=3", "did you mean 'row_rate_hz'"),
        ("shutterless --versoin", "no such option --versoin"),
    ],
)
def test_wrong_commands_are_found(line, reason):
    for text in (f"```sh\n{line}\n```", f"so:\n\n    {line}\n"):
        (found,) = wrong_commands(text)
        assert reason in found


def test_right_commands_pass_and_wrong_ones_within_a_line_are_found():
    lines = "shutterless search a.fits b.fits \\\n  --out x --set ROWRATE=300 --set search.batch_size=4 | tee log\n"
    lines += "shutterless search --help\nshutterless --version\nls shutterless\n"
    text = f"```sh\n{lines}```\n`shutterless report DIR` of `--out`\n"
    assert len(list(command_lines(text))) == 3
    assert wrong_commands(text) == []
    assert wrong_commands("`shutterless serch` and `shutterless search FILES… --outt`") == [
        "shutterless serch: no such command",
        "shutterless search FILES… --outt: no such option ['--outt']",
    ]


def test_wrong_code_is_found(tmp_path):
    assert wrong_python("```python\nx = (\n```")[0].startswith("'(' was never closed")
    code = "```python\nfrom shutterless.pipeline.reading.frames import nothing\nfrom shutterless.nowhere import x\n```"
    assert wrong_python(code) == ["shutterless.pipeline.reading.frames has no nothing", "no module shutterless.nowhere"]
    assert (
        wrong_python("```python\nfrom shutterless.workflows.settings.settings import load_settings, Settings\n```")
        == []
    )
    for block, reason in (
        ("a = ", "Invalid value"),
        ("[train]\nepoch = 3", "did you mean 'epochs'"),
        ('name = "x"\n[keywords]\nrow_rate = "A"', "did you mean 'row_rate_hz'"),
        ('jobs = 0\ncores = 1\nmemory = "1GB"\nwalltime = "1:00:00"', "greater than or equal to 1"),
    ):
        (found,) = wrong_toml(f"```toml\n{block}\n```", tmp_path)
        assert reason in found


def test_pages_outside_the_table_of_contents_are_found(tmp_path):
    (tmp_path / "index.md").write_text("```{toctree}\n:glob:\n\na*\n```\n```{toctree}\nb/index\n```\n")
    (tmp_path / "b").mkdir()
    for name in ("a1.md", "lost.md", "b/index.md", "b/lost.md"):
        (tmp_path / name).write_text("# Title\n")
    reached = {page.relative_to(tmp_path).as_posix() for page in pages_of_the_tree(tmp_path)}
    assert reached == {"index.md", "a1.md", "b/index.md"}


def fetched_from_elsewhere(html: str) -> list[str]:
    """Scripts, styles, fonts and pictures that a page would load over the network."""
    return re.findall(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*"""
        r"""|<link\b[^>]*\bhref=["'](?:https?:)?//[^"']*"""
        r"""|(?:url\(|@import )["']?(?:https?:)?//[^)"']*""",
        html,
    )


def test_what_is_fetched_is_found():
    assert fetched_from_elsewhere('<a href="https://example.org"><img src="a.png"><link href="b.css">') == []
    for text in (
        '<script src="https://a.org/x.js">',
        "<link rel=x href='//a.org/f.css'>",
        "@import url(https://a.org)",
    ):
        assert len(fetched_from_elsewhere(text)) == 1, text


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of work, more beside others
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    build = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(build, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert "<math" in pages["science/noise.html"]
    assert "search_files" in pages["reference/api/32-searching.html"]
    texts = {**pages, **{path.name: path.read_text() for path in (tmp_path / "site").rglob("*.css")}}
    assert {name: found for name, text in texts.items() if (found := fetched_from_elsewhere(text))} == {}
