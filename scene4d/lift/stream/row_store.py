"""The rows of a streamed scene: what is alive, as arrays, what has been, as closed pieces, and both as a Scene4D."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scene4d.geometry.sh import rgb_from_sh
from scene4d.lift.stream.rigid_anchors import Anchors, Skin, multiply_quats, rotate_by_quats
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians

REST = ("ids", "means", "quats", "scales", "opacities", "sh", "born", "died", "skin_index", "skin_weights")
"""Columns that a finished row leaves behind; together with the anchors' poses they are the scene."""
REFINED = ("means", "scales", "opacities", "sh")
"""What refinement may change."""


class RowStore:
    """Living rows, one array a column, first axis n.

    ids; means quats scales opacities sh: at rest, fixed when spawned; born, died s; skin_index, skin_weights [n j]: all
    0 = static; extra_* the extras when spawned; place [n 3]: where it was measured, at rest (the means of the first
    frames are refined away from it by a fraction of a pixel), and spawn_scales.
    Of the present: x [n 3] position, turn [n 4], normal, colour [n 3];
    spacing m between pixels where it was seen; home: the view that saw it last; seen: the frame that saw it last;
    evidence of moving with its neighbours; lifted: row of the newest lift that measures it, -1 = none; spare: frames it
    has been redundant.
    """

    def __init__(self, num_skin: int) -> None:
        self.num_skin = num_skin
        self.columns: dict[str, np.ndarray] = {}
        self.past: list[dict[str, np.ndarray]] = []
        self.next_id = 0

    def __len__(self) -> int:
        return len(self.columns["ids"]) if self.columns else 0

    def __getattr__(self, name: str) -> np.ndarray:
        columns = self.__dict__.get("columns", {})
        if name in columns:
            return columns[name]
        raise AttributeError(name)

    @property
    def moving(self) -> np.ndarray:
        """[n] rows that are bound to anchors."""
        return np.asarray(self.columns["skin_weights"].any(axis=1))

    def skin(self, rows: np.ndarray) -> Skin:
        """Anchors of rows [k]."""
        return Skin(self.columns["skin_index"][rows], self.columns["skin_weights"][rows].astype(np.float64))

    def spawn(self, lifted: Gaussians, chosen: np.ndarray, *, columns: dict[str, np.ndarray], time: float) -> None:
        """Add rows for the chosen lifted Gaussians; `columns` at rest (place, means, ...) and now (turn, home, ...)."""
        num = len(chosen)
        picked = lifted.pick(torch.from_numpy(chosen))
        rows = {
            "ids": np.arange(self.next_id, self.next_id + num),
            "scales": picked.scales.numpy().copy(),
            "opacities": picked.opacities.numpy().copy(),
            "sh": picked.sh.numpy().copy(),
            "born": np.full(num, time),
            "died": np.full(num, np.inf),
            "colour": rgb_from_sh(picked.sh).double().numpy(),
            "x": picked.means.double().numpy(),
            "normal": picked.extras["normals"].double().numpy(),
            "evidence": np.zeros(num),
            "lifted": chosen.copy(),
            "spare": np.zeros(num, dtype=np.int64),
            **{f"extra_{k}": v.numpy() for k, v in picked.extras.items()},
            **columns,
        }
        self.next_id += num
        if not self.columns:
            self.columns = rows
            return
        self.columns = {k: np.concatenate([v, rows[k].astype(v.dtype, copy=False)]) for k, v in self.columns.items()}

    def retire(self, dead: np.ndarray, *, last: float) -> None:
        """Close the rows of a mask [n]: `last` is their last second; rows that began later than that never existed."""
        if not dead.any():
            return
        lived = dead & (self.columns["born"] <= last)
        if lived.any():
            self.past.append(self._finished_columns(lived) | {"died": np.full(int(lived.sum()), last)})
        self.columns = {k: v[~dead] for k, v in self.columns.items()}

    def forget(self, max_past: int) -> None:
        """Drop the oldest finished rows beyond `max_past`: memory stays bounded, the far past is lost."""
        count = sum(len(piece["ids"]) for piece in self.past)
        while self.past and count - len(self.past[0]["ids"]) >= max_past:
            count -= len(self.past.pop(0)["ids"])

    def carry(self, anchors: Anchors) -> None:
        """Bring the present columns of moving rows to where the anchors are now."""
        rows = np.nonzero(self.moving)[0]
        if len(rows) == 0:
            return
        c = self.columns
        skin = self.skin(rows)
        c["x"][rows] = anchors.carry(c["place"][rows], skin)
        turn = anchors.turn(skin)
        c["turn"][rows] = turn
        c["normal"][rows] = rotate_by_quats(turn, c["extra_normals"][rows].astype(np.float64))

    def shown(self) -> np.ndarray:
        """Index of the rows that gaussians() gives: all but those that are redundant now."""
        return np.nonzero(self.columns["spare"] == 0)[0]

    def gaussians(self, rows: np.ndarray, lifted: Gaussians) -> Gaussians:
        """Living rows [k] where they are now; moving ones that are seen as the newest lift has them."""
        c = self.columns
        moving = self.moving[rows]
        means = c["means"][rows].astype(np.float64)
        quats = c["quats"][rows].astype(np.float64)
        if moving.any():
            some, turn = rows[moving], c["turn"][rows[moving]]
            arm = c["means"][some].astype(np.float64) - c["place"][some]
            means[moving] = c["x"][some] + rotate_by_quats(turn, arm)
            quats[moving] = multiply_quats(turn, quats[moving])
        extras = {k[6:]: torch.from_numpy(v[rows]) for k, v in c.items() if k.startswith("extra_")}
        extras["normals"] = torch.from_numpy(c["normal"][rows]).to(extras["normals"])
        memory = Gaussians(
            means=torch.from_numpy(means).float(),
            quats=torch.from_numpy(quats).float(),
            **{k: torch.from_numpy(c[k][rows]) for k in ("scales", "opacities", "sh")},
            ids=torch.from_numpy(c["ids"][rows]),
            extras=extras,
        )
        index = torch.from_numpy(np.nonzero(moving & (c["lifted"][rows] >= 0))[0])
        if len(index) == 0:
            return memory
        newest = lifted.pick(torch.from_numpy(c["lifted"][rows])[index])

        def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return old.index_put((index,), new.to(old.dtype))

        fields = ("means", "quats", "scales", "opacities", "sh")
        return memory.replace(
            **{k: put(getattr(memory, k), getattr(newest, k)) for k in fields},
            extras={k: put(v, newest.extras[k]) for k, v in memory.extras.items()},
        )

    def set_rest_look(self, rows: np.ndarray, gaussians: Gaussians) -> None:
        """Make Gaussians [k] what static rows look like at rest."""
        for name in REFINED:
            self.columns[name][rows] = getattr(gaussians, name).numpy()

    def at_rest(self, rows: np.ndarray, gaussians: Gaussians, *, anchors: Anchors) -> dict[str, np.ndarray]:
        """Rest columns [k] of rows that look like Gaussians [k] now: `gaussians` undone."""
        c = self.columns
        rest = {name: getattr(gaussians, name).numpy().copy() for name in ("means", "quats", *REFINED[1:])}
        rest["extra_normals"] = gaussians.extras["normals"].numpy().copy()
        moving = self.moving[rows]
        if moving.any():
            back = c["turn"][rows[moving]] * [1.0, -1.0, -1.0, -1.0]
            rest["means"][moving] = anchors.rest_of(rest["means"][moving].astype(np.float64), self.skin(rows[moving]))
            rest["quats"][moving] = multiply_quats(back, rest["quats"][moving].astype(np.float64))
            rest["extra_normals"][moving] = rotate_by_quats(back, rest["extra_normals"][moving].astype(np.float64))
        return rest

    def finished(self, *, before: float) -> list[dict[str, np.ndarray]]:
        """The rows that ended before a second, as pieces."""
        return [_picked(p, p["died"] < before) for p in self.past if (p["died"] < before).any()]

    def release(self, *, before: float) -> None:
        """Drop the rows that ended before a second."""
        self.past = [_picked(p, p["died"] >= before) for p in self.past if (p["died"] >= before).any()]

    def _finished_columns(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        return {k: v[rows] for k, v in self.columns.items() if k in REST or k.startswith("extra_")}

    def empty(self) -> dict[str, np.ndarray]:
        """No rows, with all columns of finished ones."""
        return self._finished_columns(slice(0))

    def everything(self, *, rows: np.ndarray, appearance: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """All rows still known, as pieces; the living `rows` [k] with the rest columns `appearance` [k ...]."""
        living = self._finished_columns(slice(None))
        for name, values in appearance.items():
            living[name] = living[name].copy()
            living[name][rows] = values
        return [*self.past, living]


def scene_of_rows(pieces: Sequence[dict[str, np.ndarray]], *, anchors: Anchors, times: Sequence[float]) -> Scene4D:
    """Rows at rest, in the order of their ids, with the anchors' motion at their first times [t] s in memory."""
    rows = {k: np.concatenate([piece[k] for piece in pieces]) for k in pieces[0]}
    order = np.argsort(rows["ids"], kind="stable")
    rows = {k: torch.from_numpy(np.ascontiguousarray(v[order])) for k, v in rows.items()}
    base = Gaussians(
        **{k: rows[k] for k in ("means", "quats", "scales", "opacities", "sh", "ids")},
        extras={k[6:]: v for k, v in rows.items() if k.startswith("extra_")},
    )
    motion = Motion(
        anchors=torch.from_numpy(anchors.rest).float(),
        world_from_rest=torch.from_numpy(anchors.poses()[: len(times)]).float(),
        skin_index=rows["skin_index"],
        skin_weights=rows["skin_weights"],
    )
    return Scene4D(
        base=base,
        motion=motion,
        alive=torch.stack([rows["born"], rows["died"]], -1),
        times=torch.tensor(times, dtype=torch.float64),
        observed=torch.ones(len(times), dtype=torch.bool),
        info={"model": "SceneStream"},
    )


def _picked(rows: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v[mask] for k, v in rows.items()}
