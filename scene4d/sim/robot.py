"""A robot as geometry: where its links are when its hand is here, by its kinematic model, never by stepping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class RobotConfig:
    """How the state of a robot's hand is turned into joints."""

    base: str = "base"
    """Body that stands still and carries the arm."""
    hand: str = "hand"
    """Body whose place is in proprio."""
    fingers: tuple[str, str] = ("rightclaw", "leftclaw")
    """Bodies whose distance is the gripper's opening in proprio; each slides on one joint."""
    iterations: int = 12
    """Steps of the solver for one state."""
    damping: float = 0.02
    """Damping of a step, against wild joints where the arm is stretched."""
    turn_weight: float = 0.2
    """Metres that a radian of the hand's turn is worth: the hand keeps its attitude as well as it may."""


class MujocoRobot:
    """Links of an arm whose proprio is the hand's place and the gripper's opening.

    Joints follow by damped least squares from those of the state before, so the elbow goes where it is nearest. Of the
    model only kinematics are used: nothing is stepped, no contact and no object is looked at.

    Args:
        model: a MuJoCo model with the arm. qpos: [q] joints to begin from, such as the arm's rest.
    Raises:
        ConfigError: the model has no such body.
    Source: Wampler 1986 (damped least squares).
    """

    def __init__(self, model: mujoco.MjModel, *, qpos: np.ndarray, config: RobotConfig = RobotConfig()):
        self.config, self._model, self._data = config, model, mujoco.MjData(model)
        bodies = {model.body(i).name: i for i in range(model.nbody)}
        missing = [name for name in (config.base, config.hand, *config.fingers) if name not in bodies]
        if missing:
            raise ConfigError("no such body", field="robot", found=missing, expected=", ".join(sorted(bodies)))
        self._hand = bodies[config.hand]
        self._fingers = [bodies[name] for name in config.fingers]
        self._slides = [int(model.jnt_qposadr[model.body_jntadr[body]]) for body in self._fingers]
        leads = [b for b in range(model.nbody) if model.body_weldid[b] == b and self._is_below(b, bodies[config.base])]
        self._links = leads
        self.links: list[str] = [model.body(b).name for b in leads]
        """Names of the bodies that lead each link, in the order of `link_poses`."""
        joints = [j for j in range(model.njnt) if self._is_below(self._hand, int(model.jnt_bodyid[j]))]
        self._dofs = np.array([model.jnt_dofadr[j] for j in joints])
        self._qpos_of_dofs = np.array([model.jnt_qposadr[j] for j in joints])
        limited = model.jnt_limited[joints].astype(bool)[:, None]
        self._range = np.where(limited, model.jnt_range[joints], [-np.inf, np.inf])
        self._start = np.asarray(qpos, dtype=np.float64).copy()
        self._pose_at(self._start)
        self._attitude = self._data.xquat[self._hand].copy()

    def link_poses(self, proprio: Tensor) -> Tensor:
        """World-from-link [*b t k 4 4] of a course of states [*b t 4] (hand x, y, z and opening in m); each is solved
        from the one before it, the first from the joints given."""
        check(proprio=(proprio, "*b t 4"))
        courses = proprio.detach().double().reshape(-1, *proprio.shape[-2:]).cpu().numpy()
        out = np.stack([self._course(states) for states in courses])
        return torch.from_numpy(out).to(proprio).reshape(*proprio.shape[:-1], len(self._links), 4, 4)

    def surface(self, *, points_per_link: int = 1500, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Points [n 3] m on the meshes that are seen of the arm, each in the frame of its link, and their links [n].

        Spread evenly over the area; a link without a mesh has none.
        """
        random = np.random.default_rng(seed)
        points, links = [], []
        for number, lead in enumerate(self._links):
            triangles = [self._triangles(g) for g in self._meshes_of(lead)]
            if not triangles:
                continue
            corners = np.concatenate(triangles)  # [f 3 3]
            sides = corners[:, 1:] - corners[:, :1]
            area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1)
            chosen = random.choice(len(corners), points_per_link, p=area / area.sum())
            share = random.random((points_per_link, 2))
            share = np.where(share.sum(1, keepdims=True) > 1, 1 - share, share)
            points.append(corners[chosen, 0] + (share[..., None] * sides[chosen]).sum(1))
            links.append(np.full(points_per_link, number))
        return torch.from_numpy(np.concatenate(points)).float(), torch.from_numpy(np.concatenate(links))

    def _meshes_of(self, lead: int) -> list[int]:
        """Geoms of a link that are drawn as meshes: transparent ones only serve contact."""
        model = self._model
        mesh = int(mujoco.mjtGeom.mjGEOM_MESH)
        return [
            g
            for g in range(model.ngeom)
            if model.body_weldid[model.geom_bodyid[g]] == lead
            and model.geom_type[g] == mesh
            and model.geom_group[g] < 3
            and (model.geom_matid[g] >= 0 or model.geom_rgba[g, 3] > 0)
        ]

    def _triangles(self, geom: int) -> np.ndarray:
        """[f 3 3] corners in the frame of the geom's link."""
        model, mesh = self._model, int(self._model.geom_dataid[geom])
        first, num = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        vertices = model.mesh_vert[first : first + num].astype(np.float64)
        faces = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
        self._pose_at(self._start)
        lead = int(model.body_weldid[model.geom_bodyid[geom]])
        world = vertices @ self._data.geom_xmat[geom].reshape(3, 3).T + self._data.geom_xpos[geom]
        local = (world - self._data.xpos[lead]) @ self._data.xmat[lead].reshape(3, 3)
        return local[faces]

    def _course(self, states: np.ndarray) -> np.ndarray:
        """[t k 4 4]."""
        qpos, poses = self._start.copy(), []
        for number, state in enumerate(states):
            # The first state may be far from where the joints begin.
            qpos = self._solved(qpos, state[:3], num=self.config.iterations * (5 if number == 0 else 1))
            qpos = self._gripped(qpos, opening=float(state[3]))
            self._pose_at(qpos)
            pose = np.tile(np.eye(4), (len(self._links), 1, 1))
            pose[:, :3, :3] = self._data.xmat[self._links].reshape(-1, 3, 3)
            pose[:, :3, 3] = self._data.xpos[self._links]
            poses.append(pose)
        return np.stack(poses)

    def _solved(self, qpos: np.ndarray, place: np.ndarray, *, num: int) -> np.ndarray:
        """Joints that bring the hand to `place` [3]."""
        qpos, weight = qpos.copy(), self.config.turn_weight
        shift, turn = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        for _ in range(num):
            self._pose_at(qpos)
            mujoco.mj_jacBody(self._model, self._data, shift, turn, self._hand)
            off = np.zeros(3)
            mujoco.mju_subQuat(off, self._attitude, self._data.xquat[self._hand])
            off = self._data.xmat[self._hand].reshape(3, 3) @ off  # subQuat is in the body's own axes
            error = np.concatenate([place - self._data.xpos[self._hand], weight * off])
            jacobian = np.concatenate([shift, weight * turn])[:, self._dofs]
            square = jacobian @ jacobian.T + self.config.damping**2 * np.eye(6)
            step = jacobian.T @ np.linalg.solve(square, error)
            moved = qpos[self._qpos_of_dofs] + np.clip(step, -0.3, 0.3)
            qpos[self._qpos_of_dofs] = np.clip(moved, self._range[:, 0], self._range[:, 1])
            if np.abs(step).max() < 1e-5:
                break
        return qpos

    def _gripped(self, qpos: np.ndarray, *, opening: float) -> np.ndarray:
        """Joints with the fingers `opening` m apart, both slid alike (their distance is linear in that)."""
        qpos = qpos.copy()
        apart = []
        for share in (0.0, 1.0):
            qpos[self._slides] = self._slid(share)
            self._pose_at(qpos)
            apart.append(float(np.linalg.norm(np.subtract(*self._data.xpos[self._fingers]))))
        share = (opening - apart[0]) / (apart[1] - apart[0]) if apart[0] != apart[1] else 0.0
        qpos[self._slides] = self._slid(float(np.clip(share, 0.0, 1.0)))
        return qpos

    def _slid(self, share: float) -> Sequence[float]:
        """Places of both fingers' joints between open (0) and closed (1): the ends of their ranges away from 0."""
        ends = [self._model.jnt_range[self._model.body_jntadr[body]] for body in self._fingers]
        return [share * float(end[np.abs(end).argmax()]) for end in ends]

    def _pose_at(self, qpos: np.ndarray) -> None:
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _is_below(self, body: int, ancestor: int) -> bool:
        """Whether `ancestor` is on the path from `body` to the world, `body` itself included."""
        while body not in (0, ancestor):
            body = int(self._model.body_parentid[body])
        return body == ancestor


def metaworld_robot(task: str, *, seed: int = 0) -> MujocoRobot:
    """The arm of a Meta-World task, beginning from its rest."""
    from scene4d.sim.metaworld import MetaWorldSim

    with MetaWorldSim(task, seed=seed, cameras=()) as sim:
        return MujocoRobot(sim._env.model, qpos=sim._env.data.qpos)
