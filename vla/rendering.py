"""Images of the scene without a screen, on whichever of EGL and OSMesa this machine has.

MuJoCo decides by the variable MUJOCO_GL when it is imported; here the context is chosen when the first image is asked
for, so that it does not matter who imported MuJoCo before. Shadows, multisampling and reflections are off: a software
renderer takes 100 times as long with them.
"""

import ctypes
import ctypes.util
import os
from typing import Any, Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import UInt8


@runtime_checkable
class Context(Protocol):
    """An OpenGL context, as MuJoCo's modules make one."""

    def make_current(self) -> None:
        """Draw into this context from now on."""
        ...

    def free(self) -> None:
        """Give it back."""
        ...


def choose_backend() -> str:
    """`egl`, `osmesa` or whatever MUJOCO_GL says.

    ValueError when it is unset and this machine has neither, or when it forbids rendering.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in {"egl", "osmesa", "glfw"}:
        return asked
    if asked:
        raise ValueError(f"MUJOCO_GL is {asked}, so no image can be drawn; set it to egl or osmesa, or unset it")
    if has_egl():
        return "egl"
    if has_osmesa():
        return "osmesa"
    raise ValueError(
        "no image can be drawn: this machine has neither EGL nor OSMesa; install one (Debian: libegl1 or libosmesa6), "
        "or ask for no cameras"
    )


def has_egl() -> bool:
    """Whether EGL is installed and finds a device, be it a GPU or a software renderer."""
    name = ctypes.util.find_library("EGL")
    if name is None:
        return False
    library = ctypes.CDLL(name)
    library.eglGetProcAddress.restype = ctypes.c_void_p
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(address)
    devices = ctypes.c_int(0)
    return bool(query(0, None, ctypes.byref(devices))) and devices.value > 0


def has_osmesa() -> bool:
    """Whether OSMesa is installed."""
    return ctypes.util.find_library("OSMesa") is not None


def open_context(backend: str, pixels: int) -> Context:
    """A context for images of this height and width. ValueError where it cannot be had."""
    try:
        match backend:
            case "egl":
                from mujoco.egl import GLContext
            case "osmesa":
                from mujoco.osmesa import GLContext
            case _:
                from mujoco.glfw import GLContext
        context: Context = GLContext(pixels, pixels)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"no image can be drawn with {backend} ({error}); set MUJOCO_GL to egl or osmesa, whichever is installed "
            "(Debian: libegl1, libosmesa6)"
        ) from error
    return context


class Renderer:
    """Square images from the named cameras of a model."""

    def __init__(self, model: mujoco.MjModel, pixels: int) -> None:
        self._model = model
        # The buffer is made once, of the size that the model says then; a larger one takes longer to draw into.
        model.vis.global_.offwidth = model.vis.global_.offheight = pixels
        self._context = open_context(choose_backend(), pixels)
        self._context.make_current()
        self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, pixels, pixels)
        self._image = np.empty((pixels, pixels, 3), dtype=np.uint8)

    def draw(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """What the camera sees now."""
        self._camera.fixedcamid = self._model.camera(camera).id
        everything: Any = mujoco.mjtCatBit.mjCAT_ALL
        self._context.make_current()
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._drawing)
        mujoco.mjr_readPixels(self._image, None, self._rectangle, self._drawing)
        return self._image[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Give the context back."""
        self._context.make_current()
        self._drawing.free()
        self._context.free()
