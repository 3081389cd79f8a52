"""The vector of a task that models are given: of its words, or of its phrases (verb, object, relation, place) apart.

"words" is what models without phrases learned with: one hash of all words, which calls a sentence with swapped roles
the same. With "phrases" each phrase has channels of its own, so that a red block on a blue plate is not a blue block on
a red plate; words that mean the same are strangers to each other unless they share letters, and so are opposites. With
"sentence" words of like meaning lie near one another, opposites too: "open" is nearer to "close" than to "drawer".
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from scene4d.text.phrases import NUM_PHRASES, phrases_of
from scene4d.text.sentence_encoder import sentence_vectors
from scene4d.types import Task

TextEncoding = Literal["words", "phrases", "sentence"]
"""How a task becomes numbers: a hash of its words, a hash of each of its phrases, or a sentence encoder for each."""
WORD_CHANNELS, PHRASE_CHANNELS = 32, 16


class PhraseEncoder(Protocol):
    """Turns phrases into vectors, each for itself."""

    def __call__(self, phrases: Sequence[str], /, *, channels: int) -> Tensor:
        """Vectors [k channels] of unit length; zeros for an empty phrase."""
        ...


def hashed(phrases: Sequence[str], /, *, channels: int) -> Tensor:
    """Signed hashes of the words of each phrase and of their letter triples; implements `PhraseEncoder`.

    Small, deterministic and open to any text.
    """
    rows = torch.zeros(len(phrases), channels)
    for row, phrase in zip(rows, phrases, strict=True):
        words = "".join(c.lower() if c.isalnum() else " " for c in phrase).split()
        words = [w for w in words if not (w[0] == "v" and w[1:].isdigit())]
        for piece in words + [f"^{w}$"[i : i + 3] for w in words for i in range(len(w))]:
            code = hashlib.blake2b(piece.encode(), digest_size=4).digest()
            row[code[0] % channels] += 1.0 if code[1] & 1 else -1.0
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1.0)


def task_channels(text: TextEncoding) -> int:
    """Channels of the vector of a task."""
    return WORD_CHANNELS if text == "words" else NUM_PHRASES * PHRASE_CHANNELS


def task_vector(task: Task, *, text: TextEncoding) -> Tensor:
    """The vector [c] of a task; zeros where there is none.

    Raises:
        EnvError: the sentence encoder is asked for and not installed.
    """
    if text == "words":
        return _vector((task.text,), hashed, channels=WORD_CHANNELS)
    encoder: PhraseEncoder = hashed if text == "phrases" else sentence_vectors
    return _vector(task.phrases or phrases_of(task.text), encoder, channels=PHRASE_CHANNELS)


def tasks_dropped(tasks: Tensor, *, text: TextEncoding, rate: float) -> Tensor:
    """Vectors [b c] of which some are zero, the vector of no task, and of the others some phrases; `rate` is the
    probability of each. What is drawn comes from torch's generator.

    Source: classifier-free guidance (Ho and Salimans 2022); phrases apart: RoboDreamer (Zhou et al. 2024).
    """
    if rate == 0:
        return tasks
    kept = torch.rand(len(tasks), 1, device=tasks.device) >= rate
    if text != "words":
        phrases = torch.rand(len(tasks), NUM_PHRASES, device=tasks.device) >= rate
        kept = (kept & phrases).repeat_interleave(PHRASE_CHANNELS, -1)
    return tasks * kept


def _vector(phrases: tuple[str, ...], encoder: PhraseEncoder, *, channels: int) -> Tensor:
    return _once(phrases, encoder, channels=channels).clone()  # callers may write into it


@functools.lru_cache(maxsize=4096)
def _once(phrases: tuple[str, ...], encoder: PhraseEncoder, *, channels: int) -> Tensor:
    return encoder(phrases, channels=channels).flatten()
