"""A Dockerfile as stages of instructions: as much of its grammar as ours uses."""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continuation lines joined."""

    word: str
    text: str


@dataclass
class Stage:
    """What lies between one FROM and the next."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """The texts of every instruction of one kind."""
        return [each.text for each in self.instructions if each.word == word]


def parse(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """Global arguments with their defaults, and the stages in order."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, text = line.partition(" ")
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            stages.append(Stage(name, base))
        elif stages:
            stages[-1].instructions.append(Instruction(word, text))
        else:
            name, _, default = text.partition("=")
            arguments[name] = default
    return arguments, stages
