"""The world model with the robot as geometry: its own Gaussians move by its kinematic model, not as learned."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.geometry.camera import invert_rigid, transform_points
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import pose_from_matrix
from scene4d.robot.slots import hand_index
from scene4d.scene import Scene4D
from scene4d.types import Episode
from scene4d.world.capabilities import Decodes, MovesAnchors

LINK_RADIUS_M = 0.02
"""Distance to the surface of a link within which a Gaussian is held to be part of it."""
HAND_RADIUS_M, MIN_ROWS = 0.12, 10
"""Distance to the hand's position within which Gaussians of the arm show where the hand goes, and how many it takes."""
LOG_VAR = -9.2
"""Logarithm of the variance of a link's motion: (1 cm)^2 and (10 mrad)^2."""


class Robot(Protocol):
    """A kinematic model."""

    def link_poses(self, proprio: Tensor) -> Tensor:
        """World-from-link [*b t k 4 4] of states [*b t q]."""
        ...

    def surface(self) -> tuple[Tensor, Tensor]:
        """Points [n 3] in the frames of their links [n]."""
        ...


class RobotWorldModel(Decodes, MovesAnchors, Protocol):
    """What such a forecast asks of a world model."""


class KinematicRobotForecaster(ModelForecaster):
    """A world model that knows how its robot is built: links go where the predicted hand puts them.

    Gaussians near the surface of a link, as it stands now, move with it; all others move as the model predicts.
    """

    def __init__(self, model: RobotWorldModel, past_stream: PastStream, *, robot: Robot, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="ours_robot")
        self.robot, self.anchors_of = robot, model
        self._points, self._links = robot.surface()

    def state(self, past: Episode) -> Any:
        """What the model knows at the end of `past`."""
        self._past_proprio = past.proprio
        return super().state(past)

    def decoded(self, state: Any, prediction: Any) -> Scene4D:
        """The scene of a prediction, its robot put where its links are."""
        scene, past = super().decoded(state, prediction), self._past_proprio
        now = self.robot.link_poses(past)[-1]  # [k 4 4]
        link = self.link_of(scene.base.means, now)  # [n]
        # What the model adds where nothing was seen is not known to be the robot's.
        link[self.anchors_of.anchored(state).gaussians.num_gaussians :] = -1
        ahead, hand_dims = prediction.robot_states.clone(), hand_index(state.robot)  # [h q]
        hand_at = state.proprio[hand_dims]
        near = (link >= 0) & ((scene.base.means - hand_at).norm(dim=-1) < HAND_RADIUS_M)
        if int(near.sum()) >= MIN_ROWS:
            # Predicted motion of the hand's Gaussians is more accurate than the predicted state of the hand.
            start = float(scene.times[0])
            shifts = [scene.flow(start, float(t))[0][near].mean(0) for t in scene.times[1:]]
            ahead[:, hand_dims] = hand_at + torch.stack(shifts)
        # An elbow goes to the nearest of its solutions, so the states up to now count.
        poses = self.robot.link_poses(torch.cat([past, ahead]))[len(past) - 1 :]  # [1+h k 4 4]
        return moved_with_links(scene, link, motion=poses @ invert_rigid(poses[:1]))

    def link_of(self, places: Tensor, poses: Tensor) -> Tensor:
        """The link [n] whose surface, with links at poses [k 4 4], is near each place [n 3] and nearest; -1 = none."""
        surface = transform_points(poses[self._links], self._points[:, None])[:, 0]
        distance, index = nearest(surface, places, num=1)
        return torch.where(distance[:, 0] < LINK_RADIUS_M, self._links[index[:, 0]], -1)


def moved_with_links(scene: Scene4D, link: Tensor, *, motion: Tensor) -> Scene4D:
    """A scene whose rows with a link [n] >= 0 move by that link's motion [t k 4 4] since its first time."""
    old, on = scene.motion, link >= 0
    num_anchors, num_links, log_var = old.anchors.shape[0], motion.shape[1], old.log_var
    index, weights = old.skin_index.clone(), old.skin_weights.clone()
    index[on], weights[on] = num_anchors, 0.0
    index[on, 0], weights[on, 0] = num_anchors + link[on], 1.0
    if log_var is not None:
        log_var = torch.cat([log_var, log_var.new_full((log_var.shape[0], num_links, 6), LOG_VAR)], 1)
    places = [scene.base.means[link == k] for k in range(num_links)]
    anchors = torch.stack([rows.mean(0) if len(rows) else old.anchors.new_zeros(3) for rows in places])
    return scene.replace(
        motion=old.replace(
            anchors=torch.cat([old.anchors, anchors]),
            world_from_rest=torch.cat([old.world_from_rest, pose_from_matrix(motion).to(old.world_from_rest)], 1),
            skin_index=index,
            skin_weights=weights,
            log_var=log_var,
        )
    )
