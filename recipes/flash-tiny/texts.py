"""The text that flash-tiny is made from: taken out of ordinary packages, into a folder of plain text files.

    python recipes/flash-tiny/texts.py FOLDER

Fetches what is missing with pip and apt-get. Nothing of it is shipped: models are trained on it, and every tenth
passage of each kind is held out for the figures of docs/models.md.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from html import unescape
from pathlib import Path
from typing import Final

_WHEEL: Final = "evals==3.0.1.post1"
_PASSAGES: Final = "evals/registry/data/schelling_point"
_DEBIAN: Final = ("dict-foldoc", "dict-jargon", "anarchism", "debian-reference-en")
_HELD_OUT: Final = 10
"""Every tenth passage."""
_MIN_CHARACTERS: Final = 200

_ASKS: Final = (
    "What is {}?",
    "Explain {} in simple terms.",
    "Tell me about {}.",
    "Write a short story about {}.",
    "Give me three facts about {}.",
    "Why does {} matter?",
    "Write a short email to a colleague about {}.",
    "How would you explain {} to a child?",
    "What are the advantages and disadvantages of {}?",
    "Write a paragraph about the history of {}.",
    "List five ideas for a talk about {}.",
    "Summarize what people should know about {}.",
    "I want to learn about {}. Where do I start?",
    "Can you write a poem about {}?",
    "Write a Python function that has to do with {}.",
    "How do I use {} in daily life?",
)
_THINGS: Final = (
    "bread", "the sea", "a lost key", "autumn", "photosynthesis", "gravity", "my grandmother's garden", "football",
    "the city of Paris", "volcanoes", "chess", "a friendly robot", "coffee", "the moon", "a long train ride", "music",
    "healthy food", "a job interview", "the water cycle", "learning a language", "a rainy day", "bicycles", "cats",
    "time management", "ancient Rome", "electric cars", "a birthday party", "the human heart", "space travel", "rivers",
    "teamwork", "a lighthouse", "sleep", "climate change", "public libraries", "cooking pasta", "mountains", "honesty",
    "a small shop", "the Internet", "reading books", "planting trees", "the first day at school", "bees", "budgeting",
    "winter", "a hospital", "trains", "friendship", "the speed of light", "an old map", "renewable energy", "painting",
    "exercise", "a village market", "whales", "writing letters", "the stock market", "a broken computer", "dinosaurs",
)  # fmt: skip


def main(folder: Path) -> None:
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    _fetch(downloads)
    with zipfile.ZipFile(next(downloads.glob("evals-*.whl"))) as wheel:
        for kind, member in (("wiki", "wikipedia_5"), ("web", "owt_5")):
            lines = wheel.read(f"{_PASSAGES}/{member}.jsonl").decode().splitlines()
            _write(folder, kind, (json.loads(line)["0"] for line in lines))
    root = folder / "packages"
    for name in _DEBIAN:
        package = next(downloads.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    _write(folder, "essay", _essays(root / "usr/share/doc/anarchism/markdown"))
    entries = list(_entries(root / "usr/share/dictd"))
    _write(folder, "dictionary", entries)
    _write(folder, "manual", _manual(root / "usr/share/debian-reference"))
    _write(folder, "prompts", _prompts(entries), least=0)


def _fetch(downloads: Path) -> None:
    if not list(downloads.glob("evals-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(downloads), _WHEEL]
        subprocess.run(command, check=True)
    for name in _DEBIAN:
        if not list(downloads.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", name], cwd=downloads, check=True)


def _write(folder: Path, kind: str, passages: Iterable[str], *, least: int = _MIN_CHARACTERS) -> None:
    """Two files of JSON lines: what to train on, and what is held out."""
    kept = [text for text in (passage.strip() for passage in passages) if len(text) >= least]
    for name, chosen in (
        (f"{kind}.held-out.jsonl", kept[::_HELD_OUT]),
        (f"{kind}.jsonl", [text for index, text in enumerate(kept) if index % _HELD_OUT]),
    ):
        (folder / name).write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in chosen))
        print(f"{name}: {len(chosen):,} passages, {sum(map(len, chosen)):,} characters")


def _essays(folder: Path) -> Iterable[str]:
    """Runs of whole paragraphs, about 2,000 characters each."""
    for path in sorted(folder.glob("*.md.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        yield from _runs(re.sub(r"(?<!\n)\n(?!\n)", " ", part) for part in re.split(r"\n\s*\n", text))


def _entries(folder: Path) -> Iterable[str]:
    for name in ("foldoc", "jargon"):
        text = gzip.decompress((folder / f"{name}.dict.dz").read_bytes()).decode("utf-8", "replace")
        yield from re.split(r"\n(?=\S)", text)[8:]


def _manual(folder: Path) -> Iterable[str]:
    for path in sorted(folder.glob("ch*.en.html")):
        body = unescape(re.sub(r"<[^>]+>", "", path.read_text(errors="replace")))
        yield from _runs(re.sub(r"\s+", " ", part) for part in re.split(r"\n\s*\n", body))


def _runs(paragraphs: Iterable[str], characters: int = 2000) -> Iterable[str]:
    run = ""
    for paragraph in paragraphs:
        run = f"{run}\n\n{paragraph.strip()}" if run else paragraph.strip()
        if len(run) >= characters:
            yield run
            run = ""
    yield run


def _prompts(entries: list[str]) -> list[str]:
    """Questions to the teacher: about everyday things, and about the dictionary's headwords."""
    order = random.Random(5)
    heads = [entry.splitlines()[0].strip() for entry in entries]
    heads = [head for head in heads if re.fullmatch(r"[A-Za-z][A-Za-z ]{3,30}", head)]
    asked = [ask.format(thing) for ask in _ASKS for thing in _THINGS]
    asked += [ask.format(head) for head in order.sample(heads, min(1200, len(heads))) for ask in order.sample(_ASKS, 2)]
    order.shuffle(asked)
    return asked


if __name__ == "__main__":
    main(Path(sys.argv[1]))
