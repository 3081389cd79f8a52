"""The op as torch sees it: registration, compilation, checks, threads, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scene4d.errors import EnvError, GaussianError, ResourceError, ShapeError
from scene4d.native import ops
from scene4d.native.ops import RasterSettings, rasterize

SETTINGS = RasterSettings(width=37, height=21)


def some_inputs(num: int = 40, *, sets: int = 2, views: int = 2, extras: int = 2, grads: bool = False):
    """Gaussians round z = 2 in front of cameras at the origin."""
    random = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=random)

    gaussians = dict(
        means=0.4 * normal(sets, num, 3) + torch.tensor([0.0, 0.0, 2.0]),
        quats=normal(sets, num, 4),
        scales=0.05 * normal(sets, num, 3).exp(),
        opacities=normal(sets, num).sigmoid(),
        sh=0.3 * normal(sets, num, 4, 3),
        extras=normal(sets, num, extras),
        ids=torch.arange(num).expand(sets, num),
    )
    K = torch.tensor([[30.0, 0.0, 18.0], [0.0, 31.0, 10.0], [0.0, 0.0, 1.0]])
    cameras = dict(
        viewmats=torch.eye(4).expand(sets, views, 4, 4).clone(),
        Ks=K.expand(sets, views, 3, 3),
        background=normal(sets, views, 3),
    )
    if grads:
        for name, x in [*gaussians.items(), *cameras.items()]:
            if x.is_floating_point() and name != "Ks":
                x.requires_grad_()
    return gaussians, cameras


def flat_arguments(gaussians, cameras) -> tuple:
    tensors = [{"absgrads": None, **gaussians, **cameras}[name] for name in ops._TENSORS]
    s = SETTINGS
    return (*tensors, s.width, s.height, s.eps2d, s.near, s.far, s.antialiased, s.median, s.radii, 0)


def test_opcheck():
    gaussians, cameras = some_inputs(grads=True)
    torch.library.opcheck(torch.ops.scene4d.rasterize.default, flat_arguments(gaussians, cameras))
    gaussians, cameras = some_inputs(sets=1, views=1, extras=0)
    cameras["background"] = None
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.scene4d.rasterize.default, flat_arguments(gaussians, cameras), test_utils=checks)


def test_compiles_as_one_graph():
    def loss_of(gaussians, cameras):
        rgb, depth, alpha, *_ = rasterize(gaussians, cameras, settings=SETTINGS)
        return (rgb.square().sum() + depth.sum() + alpha.sum()) * 2

    results = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        gaussians, cameras = some_inputs(grads=True)
        loss = function(gaussians, cameras)
        loss.backward()
        results.append((loss.detach(), gaussians["means"].grad, cameras["viewmats"].grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-5)


def everything(num_threads: int) -> list[torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    gaussians, cameras = some_inputs(9000, grads=True)
    settings = RasterSettings(width=90, height=70)
    images = rasterize(gaussians, cameras, settings=settings)
    sum((x.square().sum() for x in images), torch.zeros(())).backward()
    torch.set_num_threads(before)
    return [*images, *(x.grad for x in [*gaussians.values(), *cameras.values()] if x.grad is not None)]


def test_any_number_of_threads_gives_the_same_bits():
    assert all(torch.equal(a, b) for a, b in zip(everything(1), everything(2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(everything(1), everything(3), strict=True))


# Torch's own parallel loops hang in such a child, so it does nothing but draw what the parent prepared.
FORKED_RENDER = """
import os, signal, torch
from test_rasterize import RasterSettings, everything, rasterize, some_inputs
gaussians, cameras = some_inputs(9000)
settings = RasterSettings(width=90, height=70)
torch.set_num_threads(2)
expected = rasterize(gaussians, cameras, settings=settings)  # the parent's threads exist before the fork
child = os.fork()
if child == 0:
    signal.alarm(30)
    drawn = rasterize(gaussians, cameras, settings=settings)
    os._exit(0 if all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(expected, drawn)) else 3)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_renders():
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    command = [sys.executable, "-c", FORKED_RENDER]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=90, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def backward_of(images) -> None:
    (images.rgb.square().sum() + images.depth.sum()).backward(retain_graph=True)


def test_kept_tile_lists_change_no_bit():
    """The first backward uses what forward kept; the second, on the same graph, has to make the lists again."""
    gaussians, cameras = some_inputs(3000, grads=True)
    images = rasterize(gaussians, cameras, settings=RasterSettings(width=90, height=70))
    backward_of(images)
    first = {name: x.grad.clone() for name, x in gaussians.items() if x.requires_grad and x.grad is not None}
    for name in first:
        gaussians[name].grad = None
    backward_of(images)
    assert ops.native_module().last_stage_seconds()["project"] > 0, "the lists were still there"
    assert all(torch.equal(first[name], gaussians[name].grad) for name in first)


def test_kept_tile_lists_are_those_of_their_own_call():
    """Two graphs alive at once, differentiated in the order they were made and not in reverse."""
    settings = RasterSettings(width=90, height=70)
    alone = []
    for num in (2000, 3000):
        gaussians, cameras = some_inputs(num, grads=True)
        backward_of(rasterize(gaussians, cameras, settings=settings))
        alone.append(gaussians["means"].grad)
    inputs = [some_inputs(num, grads=True) for num in (2000, 3000)]
    graphs = [rasterize(*pair, settings=settings) for pair in inputs]
    for images in graphs:
        backward_of(images)
        assert ops.native_module().last_stage_seconds()["project"] == 0, "the lists were made twice"
    assert all(torch.equal(a, pair[0]["means"].grad) for a, pair in zip(alone, inputs, strict=True))


def resident_mb() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_graphs_that_are_never_differentiated_leave_no_memory():
    gaussians, cameras = some_inputs(60_000, sets=1, views=1, grads=True)
    settings = RasterSettings(width=320, height=240)
    for _ in range(5):
        rasterize(gaussians, cameras, settings=settings)
    before = resident_mb()
    for _ in range(30):  # 5 MB of lists a call
        rasterize(gaussians, cameras, settings=settings)
    assert resident_mb() - before < 20


def test_not_contiguous_inputs_are_read_right():
    gaussians, cameras = some_inputs()
    plain = rasterize(gaussians, cameras, settings=SETTINGS)
    strided = {name: x.transpose(0, 1).contiguous().transpose(0, 1) for name, x in gaussians.items()}
    assert not strided["means"].is_contiguous()
    assert torch.equal(plain[0], rasterize(strided, cameras, settings=SETTINGS)[0])


def test_only_wanted_gradients_are_computed():
    gaussians, cameras = some_inputs(grads=True)
    full = rasterize(gaussians, cameras, settings=SETTINGS)[0].sum()
    full.backward()
    alone, fixed = some_inputs()
    alone["sh"].requires_grad_()
    rasterize(alone, fixed, settings=SETTINGS)[0].sum().backward()
    assert torch.equal(alone["sh"].grad, gaussians["sh"].grad) and alone["means"].grad is None


def test_wrong_inputs_are_named():
    gaussians, cameras = some_inputs()
    for name, wrong, error in [
        ("means", gaussians["means"].double(), GaussianError),
        ("ids", gaussians["ids"].int(), GaussianError),
        ("scales", gaussians["scales"][:, :-1], ShapeError),
        ("sh", gaussians["sh"][:, :, :3], ShapeError),
    ]:
        with pytest.raises(error, match=name):
            rasterize({**gaussians, name: wrong}, cameras, settings=SETTINGS)
    with pytest.raises(ShapeError, match="no pixels"):
        rasterize(gaussians, cameras, settings=RasterSettings(width=0, height=4))


def test_more_pairs_than_memory_would_hold_are_refused():
    """Every Gaussian covers the whole of a large image: the estimate is given before memory is gone."""
    num = 160_000
    gaussians, cameras = some_inputs(num, sets=1, views=1, extras=0)
    gaussians["scales"] = torch.full((1, num, 3), 50.0)
    before = resident_mb()
    with pytest.raises(ResourceError, match=r"134217728 pairs.*raise `near`"):
        rasterize(gaussians, cameras, settings=RasterSettings(width=800, height=640))
    assert resident_mb() - before < 2500


def test_many_small_gaussians_on_one_pixel_are_drawn():
    gaussians, cameras = some_inputs(1, sets=1, views=1, extras=0)
    many = {name: x.expand(1, 300_000, *x.shape[2:]) for name, x in gaussians.items()}
    many["means"] = torch.tensor([0.0, 0.0, 2.0]).expand(1, 300_000, 3)
    many["scales"] = torch.full((1, 300_000, 3), 1e-4)
    rgb, _, alpha, *_ = rasterize(many, cameras, settings=SETTINGS)
    assert bool(rgb.isfinite().all()) and float(alpha.max()) > 0.99


def test_a_missing_module_says_how_to_build_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scene4d.native._ext", None)
    monkeypatch.delattr("scene4d.native._ext", raising=False)
    with pytest.raises(EnvError, match="pip install"):
        rasterize(*some_inputs(), settings=SETTINGS)


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setattr(ops, "native_module", lambda: type("Module", (), {"best_instruction_set": lambda: 0}))
    with pytest.raises(EnvError, match="instruction set"):
        ops.force_instruction_set("avx512")
