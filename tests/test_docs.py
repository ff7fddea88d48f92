"""Every snippet of the README and of docs/ runs; every command line names what exists; every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from kinetext import assemble, cli
from kinetext.config import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "LOG.md"]


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, the file that it is (or ""), where it begins, and what it says."""

    language: str
    file: str
    line: int
    text: str


def snippets(page: str) -> Iterator[Snippet]:
    for match in re.finditer(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        line = page.count("\n", 0, match.start()) + 2
        yield Snippet(match[1], match[2] or "", line, match[3])


def of(path: Path, language: str) -> list[Snippet]:
    return [s for s in snippets(path.read_text(encoding="utf-8")) if s.language == language]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_snippets_are_found() -> None:
    page = "```python\na = 1\n```\ntext\n```toml file=x.toml\nb = 2\n```\n"
    assert list(snippets(page)) == [Snippet("python", "", 2, "a = 1\n"), Snippet("toml", "x.toml", 6, "b = 2\n")]
    assert of(ROOT / "README.md", "python")
    assert of(ROOT / "README.md", "console")


@pytest.mark.parametrize("path", [p for p in PAGES if of(p, "python") and p.stem != "add_a_component"], ids=name)
def test_python_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for snippet in of(path, "python"):
        # blank lines put the error on the page's own line
        code = compile("\n" * (snippet.line - 1) + snippet.text, str(path), "exec")
        exec(code, space)


def test_add_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is followed to the letter: its modules stand where it puts them, then its snippets run."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for snippet in snippets((ROOT / "docs" / "add_a_component.md").read_text(encoding="utf-8")):
        code = "\n" * (snippet.line - 1) + snippet.text
        if snippet.language == "python" and snippet.file:
            module = ".".join(Path(snippet.file).with_suffix("").parts[1:]).removesuffix(".__init__")
            added = ModuleType(module)
            exec(compile(code, snippet.file, "exec"), added.__dict__)
            if module in sys.modules:  # the registry, with one line more
                for key in set(added.REGISTRY) - set(sys.modules[module].REGISTRY):
                    monkeypatch.setitem(sys.modules[module].REGISTRY, key, added.REGISTRY[key])
            else:
                monkeypatch.setitem(sys.modules, module, added)
        elif snippet.language == "python":
            exec(compile(code, "add_a_component.md", "exec"), space)
        elif snippet.file:
            (tmp_path / snippet.file).write_text(snippet.text, encoding="utf-8")
    assert (tmp_path / "runs" / "bag" / "model.safetensors").is_file()


def test_add_a_component_shows_the_registry_as_it_is() -> None:
    """The page's registry is the real one plus its line, or following the page would take parts away."""
    (registry,) = [s for s in of(ROOT / "docs" / "add_a_component.md", "python") if s.file.endswith("__init__.py")]
    real = (ROOT / registry.file).read_text(encoding="utf-8").splitlines()
    shown = registry.text.splitlines()
    assert [line for line in real if line not in shown and not line.startswith("REGISTRY")] == []
    names = re.compile(r'"(\w+)": (\w+)')
    before, after = names.findall("\n".join(real)), names.findall(registry.text)
    assert set(after) - set(before) == {("bag_of_words", "BagOfWords")}
    assert set(before) <= set(after)


def commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Command lines of a page: those of console blocks, and those in running text."""
    text = path.read_text(encoding="utf-8")
    for snippet in snippets(text):
        if snippet.language == "console":
            for number, line in enumerate(snippet.text.splitlines()):
                yield snippet.line + number, shlex.split(line, comments=True)
    plain = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"`((?:kinetext|make) [^`\n]+)`", plain):
        yield plain.count("\n", 0, match.start()) + 1, shlex.split(match[1])


def parse(words: list[str]) -> dict[str, Any]:
    """What the command line makes of ``words``; an unknown verb, option or missing argument is an error."""
    command: Any = typer.main.get_command(cli.app)
    words = words[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no verb {words[0]!r}, expected one of {sorted(command.commands)}"
        command = command.commands[words[0]]
        words = words[1:]
    if set(words) & {"--help", "-h"}:
        return {}
    context = command.make_context(command.name, words)
    return dict(context.params)


def targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", ALL_PAGES, ids=name)
def test_commands_exist(path: Path) -> None:
    for line, words in commands(path):
        where = f"{path.name}, line {line}: {shlex.join(words)}"
        if not words:
            continue
        if words[0] == "make":
            made = [word for word in words[1:] if "=" not in word]
            assert set(made) <= targets(), where
        elif words[0] == "kinetext" and "..." not in words:
            try:
                found = parse(words)
            except Exception as error:
                raise AssertionError(f"{where}: {error}") from error
            if found.get("recipe") and (ROOT / found["recipe"]).suffix == ".toml" and "/" in str(found["recipe"]):
                assemble.resolve(Recipe.load(ROOT / found["recipe"], found["changes"] or ()))


def test_wrong_commands_are_found() -> None:
    for line in (
        "kinetext fly",
        "kinetext generate",
        "kinetext generate x --sede 1",
        "kinetext data bake x",
        "kinetext predict",
    ):
        with pytest.raises(Exception, match=r"(?i)no verb|no such option|missing"):
            parse(shlex.split(line))
    assert parse(shlex.split("kinetext generate x --seed 3"))["seed"] == 3


@pytest.mark.parametrize("path", [p for p in PAGES if of(p, "toml")], ids=name)
def test_recipes_of_the_pages(path: Path) -> None:
    for snippet in of(path, "toml"):
        raw = tomllib.loads(snippet.text)
        if "bag_of_words" in snippet.text:
            raw["encoders"]["text"]["name"] = "transformer"  # the page's own component is run above
            snippet = Snippet("toml", "", 0, snippet.text.replace("bag_of_words", "transformer"))
        if "task" in raw and "data" in raw:
            assemble.resolve(Recipe.parse(snippet.text, source=f"{path.name}, line {snippet.line}"))


@pytest.mark.parametrize("path", ALL_PAGES, ids=name)
def test_links(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    lost = [link for link in found if "://" not in link and not (path.parent / link).exists()]
    assert not lost


def test_both_readmes_say_the_same() -> None:
    """Same commands, same snippets but for the words in them, same number of sections."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert of(english, "python")[0].text == of(chinese, "python")[0].text
    assert [s.text for s in of(english, "toml")] == [s.text for s in of(chinese, "toml")]
    heads = [[w[:2] for _, w in commands(page)] for page in (english, chinese)]
    for two in heads:
        for words in two:
            words[1:] = [] if words[0] == "kinetext" and words[1] == "generate" else words[1:]
    assert heads[0] == heads[1]
    sections = [re.findall(r"^## ", p.read_text(encoding="utf-8"), re.MULTILINE) for p in (english, chinese)]
    assert len(sections[0]) == len(sections[1])
