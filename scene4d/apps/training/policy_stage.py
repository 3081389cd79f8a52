"""The action head's stage on any world model, and the joining of all weights into one file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.compose.action_head import robot_of_head
from scene4d.apps.compose.models import load_models, save_models
from scene4d.apps.compose.perception import new_memory
from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run import Run
from scene4d.layers import num_parameters
from scene4d.policy.head import ActionHead
from scene4d.policy.learning.demonstrations import demonstration_jobs
from scene4d.policy.learning.samples import PolicySamples, join_samples, save_samples, train_policy_samples
from scene4d.policy.loss import policy_batches, policy_loss, set_head_statistics
from scene4d.policy.observation_builder import CameraObservationBuilder, ObservationBuilder, observation_builder_for
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.train.checkpoint import load_weights, save_tensors
from scene4d.train.distributed import rank_zero_first
from scene4d.train.log import line_progress
from scene4d.train.stage import Fit, fit


def train_policy_stage(run: Run, folder: Path) -> dict[str, Any]:
    """Train the action head on views of memory and forecast; result: steps, loss, demonstrations, sizes."""
    stage = run.config.policy
    with rank_zero_first():
        samples, demonstrations = prepared_samples(run, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.train.seed)
        head = ActionHead(stage.model)
    set_head_statistics(head, samples)
    num_views, sees, seed = stage.model.num_views, stage.model.sees_scene, stage.train.seed
    batches = policy_batches(samples, num_views=num_views, batch_size=stage.batch_size, seed=seed, from_memory=sees)
    result = fit(Fit(head, policy_loss(head), batches, stage.train), folder=folder, device=run.device, name="policy")
    save_tensors(folder / "head.safetensors", head.state_dict(), state={})
    sizes = {"samples": len(samples.task_rows), "parameters": num_parameters(head)}
    return {**result, **demonstrations, **sizes}


def prepared_samples(run: Run, folder: Path) -> tuple[PolicySamples, dict[str, int]]:
    """What the action head trains on, [n], and {demonstrations: how many it is from, succeeded: of them}."""
    jobs, at = demonstration_jobs(run.config.policy.data), folder / "samples"
    names = [at / f"{task}_{seed:04d}.safetensors" for task, seed, _ in jobs]
    each = [{"job": job, "run": run, "target": name} for job, name in zip(jobs, names, strict=True)]
    progress = line_progress("policy demonstrations")
    in_processes(samples_of_demonstration, each, num=run.config.processes, progress=progress)
    samples, wins = join_samples(names)
    return samples, {"demonstrations": len(names), "succeeded": wins}


def samples_of_demonstration(job: tuple[str, int, float], *, run: Run, target: Path) -> None:
    """Record one demonstration and write what the head is shown of it, unless it is there."""
    if target.exists():
        return
    models, config = load_models(run.world_weights), run.config
    models = dataclasses.replace(models, info={**models.info, "policy_robot": MetaWorldSim.robot})

    head, world = config.policy.model, models.world

    def make_builder(task: str) -> ObservationBuilder | CameraObservationBuilder:
        robot = robot_of_head(dataclasses.replace(models, policy=ActionHead(head)))
        return observation_builder_for(
            head, new_memory, robot=robot, task=task, world_model=world, horizon=world.spec.horizon
        )

    samples, (success,) = train_policy_samples(config.policy.data, make_builder=make_builder, head=head, jobs=[job])
    save_samples(target, samples, success=success)


def export_stage(run: Run, *, path: Path, provenance: dict[str, Any], head: bool) -> dict[str, Any]:
    """Join what was trained, the action head too if `head`, into one weights file and read it back.

    Result: path, bytes, policy (is there one).
    """
    world, config = load_models(run.world_weights), run.config
    policy, learnt = None, {}
    if head:
        data = config.policy.data
        policy = ActionHead(config.policy.model)
        tasks, cameras = list(data.tasks), list(data.input_cameras)
        learnt = {"policy_tasks": tasks, "policy_cameras": cameras, "policy_size": data.image_size}
        learnt["policy_robot"] = MetaWorldSim.robot
        load_weights(policy, run.folder("policy") / "head.safetensors")
    models = dataclasses.replace(world, policy=policy)
    if config.policy_only:
        provenance = {**provenance, "start": world.info.get("provenance")}
    size = save_models(path, models, info={**world.info, **learnt, "provenance": provenance})
    load_models(path)
    return {"path": str(path), "bytes": size, "policy": head}
