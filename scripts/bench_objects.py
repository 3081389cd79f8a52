"""Are objects found? `python scripts/bench_objects.py --tasks drawer-open-v3 --seeds 1000 1009`: a table and a JSON
line.

Episodes of a simulator's scripted expert (Meta-World's; names that begin with "tabletop/" are our own table's), or any
recordings with depth and segments (--recordings), go through the scene memory without their segments. Objects are found
in its first instant ("before": nothing has moved) and in its last ("after"), from the rows' motion, place and colour
and the hand's place; of the truth nothing is used.

Truth: the segment under each pixel of the input cameras where depth is measured. Answer: the number of the Gaussian
whose centre lies nearest to the point that the pixel measures. Score: the adjusted Rand index over all those pixels,
per episode; the mean over episodes has a bootstrap interval of 95 %. Four rules:

objects     the robot is one segment in the truth, and what is marked as robot is one object in the answer. Simulators
            call all that has no joint one segment (table, wall, the body of a cabinet), so after motion what was not
            seen to move counts as one in the answer too; before, nothing is joined.
strict      the same, and objects that did not move stay apart in the answer: a cabinet that is told from the table is
            counted as an error
links       strict, with every link of the robot a segment and an object of its own
foreground  as strict, only over pixels whose segment can move (the robot among them)

Beside it in the same run, with the same rows: k-means of colour with as many groups as the truth has segments, and
clusters by place after the largest plane is taken away. Neither knows the robot: "objects" and "strict" join its links
in the truth only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from bench import commit
from torch import Tensor

from scene4d.data.detect import open_recordings
from scene4d.errors import DataFormatError
from scene4d.eval.metrics.bootstrap import interval_of_mean
from scene4d.eval.metrics.clustering import adjusted_rand_index
from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.lift.stream.stream import SceneStream
from scene4d.objects.groups import Objects, objects_of_scene
from scene4d.objects.rigid_bodies import parts_of
from scene4d.objects.still_clusters import StillConfig, background_planes, lies_in
from scene4d.scene import Scene4D
from scene4d.sim import rig
from scene4d.sim.drawing.simulator import Simulator
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.recorder import record_episode
from scene4d.sim.tabletop.tabletop import TabletopSim
from scene4d.types import Episode, Frames, Gaussians

RULES = ("objects", "strict", "links", "foreground")
METHODS = ("groups", "colour k-means", "place clusters")
CLUSTER_GAP = 0.03
"""Metres that part two clusters of the baseline by place."""


@dataclass(frozen=True)
class Case:
    """One episode with its truth: frames [t v] with extras["segments"], and which segments are the robot's."""

    name: str
    frames: Frames
    times: Tensor
    hands: Tensor | None
    robot: list[int]


def simulated(options: argparse.Namespace) -> Iterator[Case]:
    """Episodes of the tasks and seeds that are asked for."""
    for task in options.tasks:
        make = TabletopSim if task.startswith("tabletop/") else MetaWorldSim
        size = (options.size, options.size)
        sim: Simulator = make(task, seed=options.seeds[0], size=size, cameras=options.cameras)
        for seed in range(options.seeds[0], options.seeds[1] + 1):
            episode = record_episode(task, seed=seed, noise=options.noise, num_frames=options.frames, sim=sim)
            robot = sorted(set(range(1, len(sim.segment_names))) - set(sim.object_segments))
            yield case_of(episode, name=f"{task} {seed}", cameras=options.cameras, robot=robot)
        sim.close()


def recorded(options: argparse.Namespace) -> Iterator[Case]:
    """The recordings that are asked for; segments of the robot are those named with --robot-segments."""
    for source in options.recordings:
        for number, recording in enumerate(open_recordings(source)):
            episode = recording.read(0, options.frames)
            names = list(episode.info.get("segments", []))
            robot = [k for k, name in enumerate(names) if name in options.robot_segments]
            yield case_of(episode, name=f"{source} {number}", cameras=options.cameras, robot=robot)


def case_of(episode: Episode, *, name: str, cameras: list[str], robot: list[int]) -> Case:
    """What is needed of an episode."""
    frames = episode.stacked(cameras)
    if "segments" not in frames.extras:
        fix = "record with segments, or leave the recording out"
        raise DataFormatError("has no segments to be held against", field="segments", found=name, fix=fix)
    return Case(name, frames, episode.times, hands_of(episode), robot)


def hands_of(episode: Episode) -> Tensor | None:
    """Places [t h 3] of the hands: proprio whose names end in x, y, z behind the same word; None where there are
    none."""
    names = [row.get("name", "") for row in episode.info.get("proprio_spec", [])]
    firsts = [i for i, name in enumerate(names) if name.endswith("hand_x") and i + 2 < len(names)]
    return torch.stack([episode.proprio[:, i : i + 3] for i in firsts], 1) if firsts else None


def pixel_points(frames: Frames) -> Tensor:
    """World points [v h w 3] that pixels measure."""
    cameras, depth = frames.cameras, frames.known_depth.double()
    pixels = pixel_centres(cameras.width, cameras.height, like=depth)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    local = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.Ks.double()), rays) * depth[..., None]
    world_from_cam = invert_rigid(cameras.viewmats.double())
    turned = torch.einsum("vij,vhwj->vhwi", world_from_cam[:, :3, :3], local)
    return turned + world_from_cam[:, None, None, :3, 3]


def colour_clusters(gaussians: Gaussians, *, num: int, rounds: int = 20) -> Tensor:
    """[n] k-means of the rows' colours, from colours far apart."""
    colours = (0.5 + 0.2820948 * gaussians.sh[:, 0]).double().clamp(0, 1)
    centres = colours[farthest_points(colours, num, start=None)]
    label = torch.zeros(len(colours), dtype=torch.int64)
    for _ in range(rounds):
        label = torch.cdist(colours, centres).argmin(1)
        count = label.bincount(minlength=num).clamp_min(1)
        centres = torch.zeros_like(centres).index_add(0, label, colours) / count[:, None]
    return label


def place_clusters(gaussians: Gaussians) -> Tensor:
    """[n] 0 = the largest plane and single rows, 1.. what hangs together without it."""
    points, normals = gaussians.means.double(), gaussians.extras["normals"].double()
    planes = background_planes(points, normals=normals, config=StillConfig(max_planes=1))
    left = torch.ones(len(points), dtype=torch.bool)
    for plane in planes:
        left &= ~lies_in(points, normals, plane=plane, config=StillConfig())
    label = torch.zeros(len(points), dtype=torch.int64)
    label[left] = parts_of(points[left], reach=CLUSTER_GAP) + 1
    return label


def scores(truth: Tensor, answer: dict[str, Tensor], *, robot: list[int]) -> dict[str, float]:
    """The index by each rule; truth [p] segments, answer {rule: [p] numbers}."""
    whole = torch.where(torch.isin(truth, torch.tensor(robot, dtype=torch.int64)), -2, truth)
    can_move = truth > 0
    return {
        "objects": adjusted_rand_index(answer["objects"], whole),
        "strict": adjusted_rand_index(answer["strict"], whole),
        "links": adjusted_rand_index(answer["links"], truth),
        "foreground": adjusted_rand_index(answer["strict"][can_move], whole[can_move]),
    }


def answers(scene: Scene4D, objects: Objects, *, before: bool) -> dict[str, Tensor]:
    """{rule: [n] number of each row}."""
    one_robot = objects.number_with_one_robot()
    still = objects.numbers[~objects.moved]
    moved_only = torch.where(torch.isin(one_robot, still), -1, one_robot)
    return {"objects": one_robot if before else moved_only, "strict": one_robot, "links": objects.number}


def measured(case: Case, scene: Scene4D, *, step: int, previous: Objects | None) -> tuple[dict, Objects, float]:
    """Scores {method: {rule: index}} at one instant, the objects, and the seconds that finding them took."""
    start = time.perf_counter()
    hands = None if case.hands is None else case.hands[: len(scene.times)]
    objects = objects_of_scene(scene, hands=hands, previous=previous)
    seconds = time.perf_counter() - start
    now, frames = scene.at(scene.times[-1]), case.frames[step]
    here = ((now.opacities > 0) & (now.ids >= 0)).nonzero()[:, 0]
    truth = frames.extras["segments"][..., 0]
    seen = (truth >= 0) & (frames.known_depth > 0)
    truth = truth[seen].long()
    row = nearest(now.means[here].double(), pixel_points(frames)[seen], num=1)[1][:, 0]
    found = {"groups": answers(scene, objects, before=step == 0)}
    colour = colour_clusters(now.pick(here), num=len(truth.unique()))
    place = place_clusters(now.pick(here))
    per_pixel = {"groups": {rule: number[here][row] for rule, number in found["groups"].items()}}
    for name, label in (("colour k-means", colour), ("place clusters", place)):
        per_pixel[name] = dict.fromkeys(("objects", "strict", "links"), label[row])
    return {name: scores(truth, given, robot=case.robot) for name, given in per_pixel.items()}, objects, seconds


def run_case(case: Case) -> dict[str, dict[str, dict[str, float]]]:
    """{before, after: {method: {rule: index}}} of one episode."""
    stream, found, objects = SceneStream(), {}, None
    last = len(case.times) - 1
    unlabelled = case.frames.replace(extras={})
    for step in range(last + 1):
        stream.update(unlabelled[step], time=float(case.times[step]))
        if step in (0, last):
            moment = "before" if step == 0 else "after"
            found[moment], objects, seconds = measured(case, stream.scene(), step=step, previous=objects)
            own = found[moment]["groups"]
            text = ", ".join(f"{rule} {own[rule]:.3f}" for rule in RULES)
            print(f"{case.name} {moment}: {text}, {objects.num_objects} objects in {seconds:.1f} s", flush=True)
    return found


def summary(results: list[dict]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """{moment: {method: {rule: [mean, low, high]}}} over episodes."""
    table: dict = {}
    for moment in ("before", "after"):
        for method in METHODS:
            for rule in RULES:
                values = [result[moment][method][rule] for result in results]
                found = [sum(values) / len(values), *interval_of_mean(values)]
                table.setdefault(moment, {}).setdefault(method, {})[rule] = [round(x, 3) for x in found]
    return table


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The options, of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(rig.TASKS))
    parser.add_argument("--seeds", nargs=2, type=int, default=(1000, 1001), metavar=("FIRST", "LAST"))
    parser.add_argument("--recordings", nargs="+", default=[], help="instead of a simulator: folders with segments")
    parser.add_argument("--robot-segments", nargs="+", default=[], help="names of the robot's segments in recordings")
    parser.add_argument("--cameras", nargs="+", default=list(rig.INPUT_CAMERAS))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.1)
    return parser.parse_args(words)


def main() -> None:
    """Measure all episodes and print the table."""
    options = options_of()
    torch.set_num_threads(1)
    results = [run_case(case) for case in (recorded(options) if options.recordings else simulated(options))]
    table = summary(results)
    for moment, methods in table.items():
        for method, rules in methods.items():
            cells = " | ".join(f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in rules.values())
            print(f"| {moment} | {method} | {cells} |")
    line = {"case": "objects", "episodes": len(results), "seeds": list(options.seeds), "size": options.size}
    print(json.dumps({**line, "ari": table, "commit": commit()}))


if __name__ == "__main__":
    main()
