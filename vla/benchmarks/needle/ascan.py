"""A computed optical A-scan: how much light comes back from each depth ahead of the needle's tip.

Single scattering (Faber et al., "Quantitative measurement of attenuation coefficients of weakly scattering media using
optical coherence tomography", Optics Express 12, 4353, 2004, equation 1): from depth z in tissue comes back

    I(z)  proportional to  mu(z) exp(-2 integral of mu from the surface to z)

where mu is the scattering coefficient of the layer. A surface adds a reflection as wide as the resolution. Speckle
multiplies I by an exponentially distributed number (Goodman, "Some fundamental properties of speckle", 1976), the
detector adds its noise floor, and the result is in decibels above that floor.

The beam is a Gaussian around the needle's axis. The share of it that falls into the hole sees the bottom far below
instead of the surface, and the first layer thins towards the hole: that is how an A-scan tells where the hole is.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64

from vla.benchmarks.needle.scene import BLOCK_HEIGHT_M, HOLE_HALF_WIDTH_M

DEPTHS = 1025
DEPTH_STEP_M = 1e-5
"""The range is so 10.24 mm."""
RESOLUTION_M = 2.5e-5
"""Standard deviation of the axial point spread function."""
BEAM_M = 0.001
"""Standard deviation of the beam, across."""
LAYERS_PER_M = np.array([1500.0, 500.0, 2500.0, 800.0])
"""Scattering coefficients from the surface down."""
BOUNDARIES_M = np.array([0.0, 0.0004, 0.0010, 0.0016])
"""Depths below the surface at which the layers begin, over the hole's middle."""
THICKENING = 0.05
"""By how much the first layer grows a metre away from the hole's middle, in metres."""
ERROR_FUNCTION = np.vectorize(math.erf, otypes=[np.float64])
SURFACE, BOTTOM = 2e5, 5e4
"""Peak reflections relative to the floor."""
SCATTERED = 10.0
"""Light per scattering coefficient relative to the floor, in metres."""


def profile(
    tips: Float64[np.ndarray, "N 3"], hole: Float64[np.ndarray, "3"], yaw: float
) -> Float64[np.ndarray, "N depths"]:
    """The expected light from each depth relative to the noise floor, with the tips and the hole's mouth in metres."""
    across = tips[:, :2] - hole[:2]
    turned = across @ np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    open_share = (_below(turned + HOLE_HALF_WIDTH_M) - _below(turned - HOLE_HALF_WIDTH_M)).prod(axis=1)[:, None]
    depths = np.arange(DEPTHS) * DEPTH_STEP_M
    height = (tips[:, 2] - hole[2])[:, None]
    tissue = depths - np.maximum(height, 0)  # a tip within the hole has its surface around it, not ahead of it
    radius = np.linalg.norm(across, axis=1)[:, None]
    light = SURFACE * _peak(tissue) + SCATTERED * _scattered(tissue - THICKENING * radius, tissue)
    bottom = depths - (height + BLOCK_HEIGHT_M)
    mixed: np.ndarray = (1 - open_share) * light + open_share * BOTTOM * _peak(bottom)
    return mixed


def measure(expected: Float64[np.ndarray, "N depths"], noise: np.random.Generator) -> Float32[np.ndarray, "N depths"]:
    """Decibels above the noise floor, with speckle and the detector's noise, both of which are exponential in power."""
    power = expected * noise.standard_exponential(expected.shape) + noise.standard_exponential(expected.shape)
    return (10 * np.log10(np.maximum(power, 1e-3))).astype(np.float32)


def _below(x_m: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
    """The share of the beam on one side of a straight edge."""
    share: np.ndarray = 0.5 + 0.5 * ERROR_FUNCTION(x_m / (math.sqrt(2) * BEAM_M))
    return share


def _peak(distance_m: Float64[np.ndarray, "N depths"]) -> Float64[np.ndarray, "N depths"]:
    """A reflection as the axial resolution shows it, of height 1."""
    return np.exp(-0.5 * (distance_m / RESOLUTION_M) ** 2)


def _scattered(
    shifted_m: Float64[np.ndarray, "N depths"], below_m: Float64[np.ndarray, "N depths"]
) -> Float64[np.ndarray, "N depths"]:
    """mu exp(-2 integral mu) below the surface, 0 above it; `shifted_m` is the depth less what the first layer grew."""
    ends = np.append(BOUNDARIES_M[1:], np.inf)
    layer = np.searchsorted(ends, shifted_m, side="right")
    above = np.append(0.0, np.cumsum(LAYERS_PER_M[:-1] * np.diff(BOUNDARIES_M)))
    grown = below_m - shifted_m
    first = LAYERS_PER_M[0] * below_m
    deeper = above[layer] + LAYERS_PER_M[layer] * (shifted_m - BOUNDARIES_M[layer]) + LAYERS_PER_M[0] * grown
    passed = np.where(layer == 0, first, deeper)
    return np.where(below_m >= 0, LAYERS_PER_M[layer] * np.exp(-2 * np.maximum(passed, 0)), 0.0)
