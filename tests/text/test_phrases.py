"""Phrases of tasks: sentences, names, and what fits no rule."""

from __future__ import annotations

import pytest

from scene4d.text.phrases import NAMES, Phrases, phrases_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("put the red block on the blue plate", "put | red block | on | blue plate"),
        ("Put the Red Block on the blue plate.", "put | red block | on | blue plate"),
        ("please place a cube into the drawer", "place | cube | into | drawer"),
        ("placing the cube in the bowl", "place | cube | in | bowl"),
        ("open the drawer", "open | drawer |  | "),
        ("pick up the cup", "pick up | cup |  | "),
        ("turn on the lamp", "turn on | lamp |  | "),
        ("turn the lamp on", "turn on | lamp |  | "),
        ("take the cup out of the box", "take | cup | out of | box"),
        ("pull out of the box the cup", "pull |  | out of | box the cup".replace(" the cup", " cup")),
        ("take the cup from the shelf to the table", "take | cup from shelf | to | table"),
        ("wipe the table with the sponge", "wipe | table | with | sponge"),
        ("move the mug to the left of the plate", "move | mug | to left of | plate"),
        ("put the block in front of the drawer", "put | block | in front of | drawer"),
        ("pick and place the red cube in the bin", "pick place | red cube | in | bin"),
        ("pick up the apple and place it on the shelf", "pick up place | apple | on | shelf"),
        (
            "pick up the bowl between the plate and the cup and place it on the plate",
            "pick up place | bowl between plate and cup | on | plate",
        ),
        ("put both moka pots on the stove", "put | both moka pots | on | stove"),
        ("close the bottom drawer of the cabinet", "close | bottom drawer of cabinet |  | "),
        ("open the drawer and put the block in it", "open put | drawer block | in | it"),
        (
            "put the red block on the blue plate and stack the green block on the yellow block",
            "put stack | red block green block | on on | blue plate yellow block",
        ),
        ("zorp the block on the plate", "zorp | block | on | plate"),
        ("red block on the blue plate", " | red block | on | blue plate"),
    ],
)
def test_sentences(text, expected):
    assert " | ".join(phrases_of(text)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("drawer-open-v3", "open | drawer |  | "),
        ("window-close-v2", "close | window |  | "),
        ("door-unlock", "unlock | door |  | "),
        ("dial-turn-v3", "turn | dial |  | "),
        ("faucet-open-v3", "open | faucet |  | "),
        ("handle-press-v3", "press | handle |  | "),
        ("button-press-topdown-v3", "press | button | from | top"),
        ("pick-place-v3", "pick place | puck | to | goal"),
        ("plate-slide-v3", "slide | plate | in | cabinet"),
        ("put_item_in_drawer", "put | item | in | drawer"),
        ("meat_off_grill", " | meat | off | grill"),
        ("close_jar", "close | jar |  | "),
        ("tabletop/gripper/put-red-block-on-blue-plate", "put | red block | on | blue plate"),
        ("tabletop/gripper+pusher/put-block-in-bowl-and-open-drawer", "put open | block drawer | in | bowl"),
        ("tabletop/gripper+lamp/open-drawer", "open | drawer |  | "),
    ],
)
def test_names_of_tasks(name, expected):
    assert " | ".join(phrases_of(name)) == expected


def test_every_name_of_meta_world_has_a_verb():
    env = pytest.importorskip("metaworld.env_dict")
    bare = [name for name in env.ALL_V3_ENVIRONMENTS if not phrases_of(name).verb]
    assert not bare
    assert {f"{name}-v3" for name in NAMES} <= set(env.ALL_V3_ENVIRONMENTS)
    assert len({phrases_of(name) for name in env.ALL_V3_ENVIRONMENTS}) == len(env.ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "打开抽屉",
        "the red block",
        "Öffne die Schublade!",
        "a",
        "- -",
        "and and",
    ],
)
def test_what_fits_no_rule_is_lost_nowhere(text):
    assert phrases_of(text) == Phrases(object=text.strip())


@pytest.mark.parametrize(
    "text", ["put", "on", "put on", "on the", "put the on the", "the the the", "and", "-v3", "v3", ";,;"]
)
def test_fragments_lose_no_word(text):
    found = " ".join(phrases_of(text)).split()
    words = [w for w in text.replace("-", " ").split() if w not in ("the", "v3")]
    assert set(words) <= set(found) or phrases_of(text).object == text
