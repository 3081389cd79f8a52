"""RGB, depth and geom ids of a MuJoCo scene without a window: one OpenGL context, one scene, any number of cameras."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from dataclasses import dataclass

import mujoco
import numpy as np

from scene4d.errors import EnvError

_HIDDEN_GROUP = 5  # a geom group that MuJoCo does not draw by default
_FARTHEST = 20.0  # m; the sky is drawn as a far box and leaves a depth too, the floor ends long before


@dataclass(frozen=True)
class Shot:
    """What one camera sees: rgb [h w 3] uint8; depth [h w] z-depth in m, 0 = sky; geoms [h w] ids, -1 = sky."""

    rgb: np.ndarray
    depth: np.ndarray
    geoms: np.ndarray | None


class OffscreenRenderer:
    """Draws with the settings of the rig: no anti-aliasing, shadows, reflections or sites.

    The OpenGL context is EGL, or OSMesa where EGL does not work; MUJOCO_GL = egl | osmesa | glfw, when set, decides.
    It belongs to the thread that made it and does not survive a fork.

    Args:
        model: any model of the task: meshes and textures are taken from it, positions from the data drawn later.
        size: (width, height) px.
    Raises:
        EnvError: no OpenGL context can be made.
    """

    def __init__(self, model: mujoco.MjModel, *, size: tuple[int, int]):
        self.size = size
        # Multi-sampling blends colours and geom ids at edges, and depth cannot be blended: one sample a pixel.
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth, model.vis.global_.offheight = size
        self._gl = _make_context(size)
        self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        self._mjr.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 64)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0  # sites mark the goal
        self._rect = mujoco.MjrRect(0, 0, *size)
        # Registered after the context's own exit hook, so it runs before the display is terminated.
        atexit.register(self.close)

    def draw(
        self, model: mujoco.MjModel, data: mujoco.MjData, *, camera: mujoco.MjvCamera, sees, geoms: bool = True
    ) -> Shot:
        """One camera's images of the present state of `data`.

        Args:
            sees: [ngeom] bool, False for geoms that are certainly outside the image; they are not sent to the renderer.
            geoms: whether to draw geom ids too (a second pass).
        Raises:
            EnvError: the renderer has been closed.
        """
        if self._mjr is None or self._gl is None:
            raise EnvError("the renderer has been closed", field="OffscreenRenderer")
        self._gl.make_current()
        groups = model.geom_group.copy()
        model.geom_group[~sees] = _HIDDEN_GROUP
        mujoco.mjv_updateScene(model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene)
        model.geom_group[:] = groups
        width, height = self.size
        rgb = np.empty((height, width, 3), np.uint8)
        raw = np.empty((height, width), np.float32)
        mujoco.mjr_render(self._rect, self._scene, self._mjr)
        mujoco.mjr_readPixels(rgb, raw, self._rect, self._mjr)
        ids = self._geom_ids() if geoms else None
        return Shot(rgb=rgb[::-1].copy(), depth=_depth_from_raw(raw[::-1], model), geoms=ids)

    def _geom_ids(self) -> np.ndarray:
        flags = [mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR]
        colors = np.empty((self.size[1], self.size[0], 3), np.uint8)
        for flag in flags:
            self._scene.flags[flag] = True
        try:
            mujoco.mjr_render(self._rect, self._scene, self._mjr)
            mujoco.mjr_readPixels(colors, None, self._rect, self._mjr)
        finally:
            for flag in flags:
                self._scene.flags[flag] = False
        geom_of_code = np.full(self._scene.ngeom + 1, -1, np.int64)  # code 0 is the background
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of_code[geom.segid + 1] = geom.objid
        codes = colors[::-1].astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
        return geom_of_code[codes]

    def close(self) -> None:
        """Give the OpenGL context back; drawing afterwards is an error."""
        atexit.unregister(self.close)
        mjr, gl, self._mjr, self._gl = self._mjr, self._gl, None, None
        if gl is not None and mjr is not None:
            with contextlib.suppress(Exception):  # nothing can be done about a context that is already gone
                gl.make_current()
                mjr.free()
                gl.free()


def _depth_from_raw(raw: np.ndarray, model: mujoco.MjModel) -> np.ndarray:
    """z-depth in m of a reversed depth buffer (1 = near plane, 0 = far plane); 0 where there is only sky."""
    near, far = model.vis.map.znear * model.stat.extent, model.vis.map.zfar * model.stat.extent
    value = raw.astype(np.float64)
    depth = near * far / (near + value * (far - near))
    return np.where(depth < _FARTHEST, depth, 0.0).astype(np.float32)


def _make_context(size: tuple[int, int]):
    """An OpenGL context of the first backend that works; mujoco's own choice, fixed at its import, is not used."""
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    backends = (wanted,) if wanted in ("egl", "osmesa", "glfw") else ("egl", "osmesa")
    if sys.platform == "darwin":
        backends = ("cgl",)
    problems = []
    for backend in backends:
        platform = os.environ.get("PYOPENGL_PLATFORM")
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(*size)
            context.make_current()
            return context
        except Exception as error:  # each has failures of its own: ImportError, AttributeError, RuntimeError, GLError
            problems.append(f"{backend}: {type(error).__name__}: {error}")
            if platform is None:
                os.environ.pop("PYOPENGL_PLATFORM", None)  # set by a backend that then failed; it would block the next
    problem, found = "no OpenGL context for drawing without a window", "; ".join(problems)
    fix = "install EGL (Debian: libegl1 libgl1-mesa-dri) or OSMesa (libosmesa6), or set MUJOCO_GL"
    raise EnvError(problem, field="MUJOCO_GL", found=found, fix=fix)
