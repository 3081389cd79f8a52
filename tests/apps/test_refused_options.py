"""Options that cannot be meant are refused by name, before anything is read, made or replaced."""

import pytest
import torch
from test_export import ball_scene
from tiny_agent import PROPRIO

from scene4d.apps.cli import main
from scene4d.apps.terminal.option_checks import check_at_least, check_output, check_positive
from scene4d.errors import ConfigError
from scene4d.gaussians.s4d.s4d import write_s4d


@pytest.mark.parametrize("value", [0, -3, float("nan"), float("inf")])
def test_numbers_out_of_range_are_named_as_they_are_typed(value):
    with pytest.raises(ConfigError, match="--max-frames") as error:
        check_at_least(1, steps=4, other=None, max_frames=value)
    assert error.value.found is value
    with pytest.raises(ConfigError, match="--fps"):
        check_positive(scale=0.5, fps=value if value != 0 else -0.0)


def test_outputs_are_of_the_kind_that_is_written_and_replace_no_input(tmp_path):
    scene, link = tmp_path / "a.s4d", tmp_path / "b.s4d"
    scene.write_bytes(b"x")
    link.symlink_to(scene)
    check_output(tmp_path / "c.S4D", suffixes=(".s4d",), inputs=(scene,))
    for output in (scene, link):
        with pytest.raises(ConfigError, match="replace"):
            check_output(output, suffixes=(".s4d",), inputs=(scene,))
    with pytest.raises(ConfigError, match="no suffix"):
        check_output(tmp_path / "c", suffixes=(".s4d",))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("forecast SCENE -o SCENE", "replace"),
        ("forecast SCENE -o x.txt", ".s4d"),
        ("forecast SCENE --sampler-steps 0", "--sampler-steps"),
        ("forecast SCENE --actions ACTIONS", "actions[3]"),
        ("reconstruct SCENE -o x.ply", "scene4d export"),
        ("render SCENE --num-frames 0", "--num-frames"),
        ("render SCENE --fps nan", "--fps"),
        ("export SCENE -o x.ply --scale 0", "--scale"),
        ("eval forecast --sampler-steps 0", "--sampler-steps"),
        ("eval forecast --size 0", "--size"),
        ("eval forecast --seeds -2 -2", "seeds"),
        ("eval reconstruct --seeds 4294967296 4294967296", "seeds"),
        ("eval plan --samples 0", "--samples"),
        ("eval policy --turned nan", "--turned"),
        ("eval policy --turned 4000", "--turned"),
        ("record --first-seed 99999999999", "first_seed"),
        ("record --noise -1", "--noise"),
        ("serve --port 99999", "--port"),
        ("serve --fps nan", "--fps"),
        ("view SCENE --port -1", "--port"),
        ("view SCENE --seed -1", "--seed"),
        ("view SCENE --task tea", "button-press-v3"),
        ("train configs/smoke.toml --pixels --until record", "--until"),
        ("train configs/finetune.toml", "my_recording"),
    ],
)
def test_verbs_refuse_in_one_line(arguments, named, request, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(request.config.rootpath)
    scene, actions = tmp_path / "scene.s4d", tmp_path / "actions.json"
    spec, info = [{"name": f"a{i}", "unit": "0.02 m"} for i in range(4)], {"proprio": [PROPRIO.tolist()] * 3}
    write_s4d(scene, ball_scene(), actions=torch.zeros(3, 4), action_spec=spec, info=info)
    before = scene.read_bytes()
    actions.write_text("[[0, 0, 0, 1e9]]")
    words = arguments.replace("SCENE", str(scene)).replace("ACTIONS", str(actions)).split()
    code, shown = main(words), capsys.readouterr().err.strip().splitlines()
    assert code in (2, 3) and len(shown) == 1 and named in shown[0], shown
    assert scene.read_bytes() == before
