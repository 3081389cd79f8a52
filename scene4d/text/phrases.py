"""A task's text in four phrases: verb, object, relation and place ("put | red block | on | blue plate").

A small grammar of commands, the same on every machine: no network, nothing learned. Names of tasks are read too
("drawer-open-v3", "put_item_in_drawer"). What fits no rule is one object phrase, so that nothing is lost.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NUM_PHRASES = 4
ARTICLES = {"the", "a", "an"}
POLITE = {"please", "kindly", "now", "robot"}
PRONOUNS = {"it", "them", "this", "that"}
COMMANDS = """
arrange assemble attach bring carry catch clean clear close cover cut detach disassemble disconnect drag drop empty
erase fetch fill find flip fold get give grab grasp hammer hang heat hit hold insert install keep kick knock lay
leave lift light load lock lower mix move open pack paint peel pick place play plug point pour press pull push put
raise reach release remove replace return rotate scoop screw serve set shake shut slice slide sort spin spread
squeeze stack stir straighten sweep swing switch take throw tidy tilt toggle toss touch turn twist unfold unhang
unload unlock unplug unscrew unstack untwist use wash wipe wrap write
"""
VERBS = set(COMMANDS.split())
PARTICLES = {
    **dict.fromkeys(("pick", "lift", "hang", "fold", "clean", "tidy", "stack", "hold"), ("up",)),
    **dict.fromkeys(("put", "set", "lay", "push", "press", "pull"), ("down", "away", "back", "up")),
    **dict.fromkeys(("turn", "switch"), ("on", "off", "over", "around", "down", "up")),
    **dict.fromkeys(("take", "pull", "pour", "get"), ("out", "off", "away", "up")),
    **dict.fromkeys(("plug", "screw"), ("in",)),
    **dict.fromkeys(("flip", "knock", "tip"), ("over",)),
    **dict.fromkeys(("wipe", "throw", "give"), ("off", "away", "back", "down")),
}
"""What may belong to a verb: "pick up", "turn the lamp on"."""
RELATIONS = tuple(
    tuple(words.split())
    for words in (
        "to the left side of", "to the right side of", "on the left side of", "on the right side of", "to the left of",
        "to the right of", "on the left of", "on the right of", "on the top of", "in front of", "on top of", "left of",
        "right of", "out of", "away from", "inside of", "next to", "close to", "near to", "into", "onto", "inside",
        "outside", "in", "on", "upon", "to", "at", "over", "above", "under", "underneath", "below", "beneath", "behind",
        "beside", "between", "among", "near", "by", "against", "through", "around", "towards", "toward", "across",
        "along", "off", "past",
    )
)  # fmt: skip
"""Longest first where one begins another."""
WEAK_RELATIONS = (("from",), ("with",), ("using",))
"""They begin the place only where no other relation does: "the cup from the shelf" may go "to the table"."""


class Phrases(NamedTuple):
    """A task in phrases; "" where it has none."""

    verb: str = ""
    object: str = ""
    relation: str = ""
    place: str = ""


NAMES: dict[str, Phrases] = {
    "assembly": Phrases("assemble", "nut", "on", "peg"),
    "basketball": Phrases("put", "ball", "in", "basket"),
    "bin-picking": Phrases("pick place", "object", "in", "bin"),
    "box-close": Phrases("close", "box", "with", "lid"),
    "button-press-topdown": Phrases("press", "button", "from", "top"),
    "button-press-topdown-wall": Phrases("press", "button", "from", "top behind wall"),
    "button-press-wall": Phrases("press", "button", "behind", "wall"),
    "coffee-button": Phrases("press", "button", "on", "coffee machine"),
    "coffee-pull": Phrases("pull", "mug", "from", "coffee machine"),
    "coffee-push": Phrases("push", "mug", "to", "coffee machine"),
    "disassemble": Phrases("disassemble", "nut", "from", "peg"),
    "hammer": Phrases("hammer", "nail", "in", "wall"),
    "hand-insert": Phrases("insert", "hand", "in", "hole"),
    "handle-press-side": Phrases("press", "handle", "from", "side"),
    "handle-pull-side": Phrases("pull", "handle", "from", "side"),
    "peg-insert-side": Phrases("insert", "peg", "from", "side"),
    "peg-unplug-side": Phrases("unplug", "peg", "from", "side"),
    "pick-out-of-hole": Phrases("pick", "puck", "out of", "hole"),
    "pick-place": Phrases("pick place", "puck", "to", "goal"),
    "pick-place-wall": Phrases("pick place", "puck", "over", "wall"),
    "plate-slide": Phrases("slide", "plate", "in", "cabinet"),
    "plate-slide-back": Phrases("slide back", "plate", "out of", "cabinet"),
    "plate-slide-back-side": Phrases("slide back", "plate", "out of", "cabinet sideways"),
    "plate-slide-side": Phrases("slide", "plate", "in", "cabinet sideways"),
    "push": Phrases("push", "puck", "to", "goal"),
    "push-back": Phrases("push back", "puck", "to", "goal"),
    "push-wall": Phrases("push", "puck", "around", "wall"),
    "reach": Phrases("reach", "", "to", "goal"),
    "reach-wall": Phrases("reach", "", "over", "wall"),
    "shelf-place": Phrases("place", "puck", "on", "shelf"),
    "soccer": Phrases("kick", "ball", "in", "goal"),
    "stick-pull": Phrases("pull", "mug", "with", "stick"),
    "stick-push": Phrases("push", "mug", "with", "stick"),
    "sweep": Phrases("sweep", "puck", "off", "table"),
    "sweep-into": Phrases("sweep", "puck", "into", "hole"),
}
"""Meta-World's names that say too little, or say it in another order than "object-verb"."""


def phrases_of(text: str) -> Phrases:
    """The phrases of a task's text or name."""
    name = re.sub(r"[-_]v\d+$", "", text.strip().lower())
    if re.fullmatch(r"[\w+-]+(/[\w+-]+)+", name):  # "tabletop/gripper/put-red-block-on-blue-plate"
        name = name.rpartition("/")[2]
    if name in NAMES:
        return NAMES[name]
    is_name = bool(re.fullmatch(r"\w+([-_]\w+)+", name))
    words = _words(re.sub(r"[-_]", " ", name) if is_name else text)
    found = _command(words)
    if found is None and is_name:
        found = _object_verb(words)
    return found or Phrases(object=text.strip())


def _words(text: str) -> list[str]:
    """Lower-case words, those with which a text only begins or ends politely left out."""
    words = re.findall(r"\w+(?:['-]\w+)*|[,;]", text.lower())
    while words and words[0] in POLITE | {","}:
        words = words[1:]
    while words and words[-1] in POLITE | {","}:
        words = words[:-1]
    return words


def _command(words: list[str]) -> Phrases | None:
    """A command (verb, object, relation, place), or an object in its place ("red block on the blue plate")."""
    verbs, rest = _verbs(words)
    both = _coordinated(verbs, rest)
    if both is not None:
        verbs, before, tail = both
        nothing, relation, after = _relation(tail) or (tail, [], [])
        if nothing:
            return None
    else:
        before, relation, after = _relation(rest) or (rest, [], [])
        verbs, before = (verbs, before) if after else _split_verb(verbs, before)
    bare = [[w for w in part if w not in ARTICLES] for part in (before, after)]
    clauses = bare[1:] if both else bare
    if any(w in (",", ";", "and", "then") for part in clauses for w in part) and _has_verb(*clauses):
        return _two_commands(words)
    if not verbs and not (bare[0] and bare[1]):
        return None
    return Phrases(" ".join(verbs), " ".join(bare[0]), " ".join(relation), " ".join(bare[1]))


def _two_commands(words: list[str]) -> Phrases | None:
    """ "open the drawer and put the block in it": each phrase holds those of both, in their order."""
    for i, word in enumerate(words):
        start = i + 1 + (words[i + 1 : i + 2] in (["and"], ["then"]))
        if i and word in ("and", "then", ",", ";") and start < len(words) and _plain(words[start]):
            both = _command(words[:i]), _command(words[start:])
            if both[0] and both[1]:
                return Phrases(*(f"{first} {second}".strip() for first, second in zip(both[0], both[1], strict=True)))
    return None


def _verbs(words: list[str]) -> tuple[list[str], list[str]]:
    """The verbs that a command begins with, particles included, in their plain form; and the rest."""
    verbs: list[str] = []
    while words:
        verb = _plain(words[0]) or ("" if verbs or len(words) < 2 or words[1] not in ARTICLES else words[0])
        if not verb:
            break
        verbs, words = [*verbs, verb], words[1:]
        if words and words[0] in PARTICLES.get(verb, ()) and not _is_long_relation(words):
            verbs, words = [*verbs, words[0]], words[1:]
        if len(words) > 1 and words[0] == "and" and _plain(words[1]):
            words = words[1:]  # "pick and place"
        else:
            break
    return verbs, words


def _coordinated(verbs: list[str], words: list[str]) -> tuple[list[str], list[str], list[str]] | None:
    """ "(pick up) the apple and place it on the shelf": both verbs, their one object, and what follows "it"."""
    for i, word in enumerate(words):
        if verbs and i and word in ("and", "then", ","):
            start = i + 1 + (words[i + 1 : i + 2] in (["and"], ["then"]))
            more, rest = _verbs(words[start:])
            if more and rest and rest[0] in PRONOUNS:
                return [*verbs, *more], words[:i], rest[1:]
    return None


def _split_verb(verbs: list[str], words: list[str]) -> tuple[list[str], list[str]]:
    """ "turn the lamp on": the particle at the end belongs to the verb."""
    if len(verbs) == 1 and len(words) > 1 and words[-1] in PARTICLES.get(verbs[0], ()):
        return [*verbs, words[-1]], words[:-1]
    return verbs, words


def _relation(words: list[str]) -> tuple[list[str], list[str], list[str]] | None:
    """The words before the first relation that something follows, the relation, and those after it."""
    for relations in (RELATIONS, WEAK_RELATIONS):
        for i in range(len(words) - 1):
            for relation in relations:
                end = i + len(relation)
                if tuple(words[i:end]) == relation and words[end:] and not (i and words[i - 1] in ARTICLES):
                    return words[:i], [w for w in relation if w not in ARTICLES], words[end:]
    return None


def _is_long_relation(words: list[str]) -> bool:
    """Whether a relation of several words begins here: the "out" of "out of" is no particle."""
    return any(len(relation) > 1 and tuple(words[: len(relation)]) == relation for relation in RELATIONS)


def _object_verb(words: list[str]) -> Phrases | None:
    """A name of the kind "drawer-open": the object first."""
    for i, word in enumerate(words):
        if i and _plain(word):
            return Phrases(_plain(word), " ".join(words[:i]), "", " ".join(words[i + 1 :]))
    return None


def _has_verb(*parts: list[str]) -> bool:
    return any(_plain(word) for part in parts for word in part)


def _plain(word: str) -> str:
    """The plain form of a known verb ("placing", "puts": "place", "put"); nothing for other words."""
    stems = [word]
    for ending in ("s", "es", "ed", "d", "ing"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            doubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
            stems += [stem, stem + "e", doubled]
    return next((stem for stem in stems if stem in VERBS), "")
