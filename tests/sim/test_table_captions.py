"""Sentences, names and phrases of the table's tasks say the same."""

import pytest

from scene4d.errors import ConfigError
from scene4d.sim.tabletop.captions import Instruction, TableTask, all_instructions, read_instruction, read_task, swapped
from scene4d.text.phrases import phrases_of


def test_sentences_and_names_are_read_back():
    every = list(all_instructions())
    assert len({one.text for one in every}) == len({one.name for one in every}) == len(every) > 140
    for one in every:
        assert read_instruction(one.text) == read_instruction(one.name) == one
        assert Instruction(**one.phrases) == one


def test_a_sentence_has_its_four_phrases():
    one = read_instruction("Put the red block on the blue plate")
    assert one.phrases == {"verb": "put", "object": "red block", "relation": "on", "place": "blue plate"}
    assert read_instruction("open-drawer").phrases == {"verb": "open", "object": "drawer", "relation": "", "place": ""}
    assert read_instruction("push the green block to the left side").place == "left side"


def test_colours_are_exchanged():
    assert swapped(read_instruction("put-red-block-on-blue-plate")).name == "put-blue-block-on-red-plate"
    assert swapped(read_instruction("stack-red-block-on-blue-block")).name == "stack-blue-block-on-red-block"
    with pytest.raises(ConfigError, match="drawer"):
        swapped(read_instruction("put-red-block-in-drawer"))


@pytest.mark.parametrize(
    "name",
    [
        "tabletop/suction/put-red-block-on-blue-plate",
        "tabletop/gripper+lamp/open-drawer",
        "tabletop/gripper+pusher/put-red-block-on-blue-plate-and-push-green-block-to-middle",
        "tabletop/pusher+pusher+lamp/push-red-block-beside-blue-plate",
        "tabletop/gripper/open-drawer-then-put-red-block-in-drawer",
    ],
)
def test_names_of_tasks_are_read_back(name):
    assert read_task(name).name == name


def test_the_robot_may_be_left_out():
    assert read_task("tabletop/push-red-block-to-middle").robots == ("pusher",)
    assert read_task("tabletop/close-drawer") == TableTask(
        ((read_instruction("close the drawer"),),), robots=("gripper",)
    )
    task = read_task("tabletop/gripper+pusher/push-red-block-to-middle-and-put-green-block-in-drawer")
    assert task.text == "push the red block to the middle and put the green block in the drawer"
    assert task.assignments == [(1, 0)]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("tabletop/put-red-block-under-blue-plate", "under"),
        ("tabletop/put-pink-block-on-blue-plate", "pink"),
        ("tabletop/stack-red-block-on-red-block", "red"),
        ("tabletop/open-drawer-on-blue-plate", "drawer"),
        ("tabletop/claw/open-drawer", "claw"),
        ("tabletop/gripper/push-red-block-to-middle", "gripper"),
        ("tabletop/gripper+gripper+gripper/open-drawer", "gripper"),
        ("tabletop/gripper/open-drawer-and-put-red-block-on-blue-plate", "instructions"),
        ("tabletop/gripper+gripper/put-red-block-on-blue-plate-and-put-green-block-on-blue-plate", "blue plate"),
        ("tabletop/open-drawer-then-close-drawer", "close"),
        ("tabletop/put-red-block-on-blue-plate-then-put-red-block-in-drawer", "undo"),
        ("tabletop/a/b/c", "tabletop"),
        ("door-open-v3", "door-open-v3"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_words(name, word):
    with pytest.raises(ConfigError, match=word):
        read_task(name)


def test_any_stands_for_a_name_that_the_seed_draws():
    task = read_task("tabletop/suction/put-any-block-on-any-plate")
    assert task.name == "tabletop/suction/put-any-block-on-any-plate" and task.text == "put any block on any plate"
    drawn = {task.drawn(seed) for seed in range(200)}
    assert {one.instructions[0] for one in drawn} == {
        i for i in all_instructions() if (i.verb, i.relation) == ("put", "on")
    }
    other = read_task("tabletop/gripper/put-any-block-on-any-plate")
    assert [task.drawn(seed).text for seed in range(9)] == [other.drawn(seed).text for seed in range(9)]
    for seed in range(50):
        two = read_task("tabletop/pusher+suction/stack-any-block-on-any-block-and-push-any-block-to-any-area").drawn(
            seed
        )
        nouns = [noun for one in two.instructions for noun in one.nouns]
        assert len(set(nouns)) == 4 and not any(noun.startswith("any") for noun in nouns)
    named = read_task("tabletop/put-red-block-on-blue-plate")
    assert named.drawn(3) == named


def test_the_reader_of_any_text_finds_the_same_phrases():
    for one in all_instructions():
        assert phrases_of(one.text)._asdict() == phrases_of(one.name)._asdict() == one.phrases
