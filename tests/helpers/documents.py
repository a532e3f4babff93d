"""The documents that people read: their links, their snippets and their commands."""

import pathlib
import re
import shlex
import unicodedata

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
RESULTS = ROOT / "experiments/results/README.md"
DOCUMENTS = (README, *DOCS, RESULTS)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


def name_of(path: pathlib.Path) -> str:
    """A document's path, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """What stands between fences of a language.

    >>> blocks("a\\n```python\\nx = 1\\n```\\n", "python")
    ['x = 1\\n']
    """
    return [body for found, body in BLOCK.findall(text) if found == language]


def prose(text: str) -> str:
    """A document without its fenced blocks and without comments."""
    return re.sub(r"<!--.*?-->", "", BLOCK.sub("", text), flags=re.S)


def links(text: str) -> list[str]:
    """The targets of all links and pictures.

    >>> links("[a](b.md#c), ![d](e.png)")
    ['b.md#c', 'e.png']
    """
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of all headings, as GitHub makes them.

    >>> sorted(anchors("# A `b`: c, d\\n\\n## Next_one\\n"))
    ['a-b-c-d', 'next_one']
    """
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {_anchor(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)) for title in titles}


def _anchor(title: str) -> str:
    letters = unicodedata.normalize("NFC", title).lower().replace(" ", "-")
    return "".join(letter for letter in letters if letter.isalnum() or letter in "-_")


def commands(text: str) -> list[list[str]]:
    """All commands: of ``bash`` blocks, line by line, and those named in a sentence.

    Variables that a block sets are put in; comments are left out. A command in a sentence begins
    with ``make`` or ``python -m``.

    >>> text = "`make run`\\n```bash\\nX=a  # set\\npython -m m $X \\\\\\n  --b=1\\n```\\n"
    >>> commands(text)
    [['python', '-m', 'm', 'a', '--b=1'], ['make', 'run']]
    """
    found = []
    for block in blocks(text, "bash"):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            if words and re.fullmatch(r"\w+=\S*", words[0]) and len(words) == 1:
                variables |= dict([words[0].split("=", 1)])
            elif words:
                found.append(words)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text)):
        words = shlex.split(code) if re.match(r"(make|(\S+=\S* )?python -m) ", code) else []
        found += [words] * bool(words)
    return found


def named_flags(text: str) -> list[str]:
    """Flags that sentences and tables name: ``--name`` or ``--name=value``.

    >>> named_flags("Take `--noise=none`, or `--dry_run`.")
    ['--noise=none', '--dry_run']
    """
    return re.findall(r"`(--[^`\s]+)`", prose(text))
