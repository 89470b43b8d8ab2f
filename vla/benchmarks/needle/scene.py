"""The scene in MuJoCo: a compliant arm with a flat needle above three holes in coloured pads.

The arm is three slides and three hinges held by springs, so that contact bends the wrist and its sensor feels it. The
block stands twice in the scene: what the cameras show, and, displaced by the hidden error, what the needle touches. A
needle one sees to be over the hole so stands on its rim, and only the contact tells on which side.

MuJoCo resolves a cylinder on a box with few contact points that jump about, whose centre of pressure means nothing. The
needle's cylinder is therefore only seen; what touches are rings of small spheres at its tip and above, whose contacts
with boxes are exact.
"""

import math

import mujoco

from vla.benchmarks.needle.config import PHYSICS_HZ
from vla.benchmarks.needle.instructions import COLOURS

NEEDLE_RADIUS_M = 0.004
TIP_BELOW_WRIST_M = 0.064
"""From the wrist's sensor down to the tip."""
WRIST_HEIGHT_M = 0.16
"""Of the wrist above the table where the arm's joints are zero."""
HOLE_HALF_WIDTH_M = 0.0046
"""The holes are square, and 0.6 mm wider on each side than the needle."""
HOLE_SPACING_M = 0.034
PAD_HALF_WIDTH_M = 0.014
BLOCK_HEIGHT_M = 0.04
FRICTION = 0.1
SPHERE_RADIUS_M = 0.0002
RINGS = ((0.0, 12), (0.0098, 8), (0.0198, 8))
"""Of contact spheres: height above the tip in metres, and their number."""

RGBA = {"red": "0.86 0.17 0.16 1", "green": "0.15 0.68 0.25 1", "blue": "0.18 0.32 0.88 1"}
TISSUE_RGBA = "0.90 0.72 0.64 1"
CONTACT = f'friction="{FRICTION}" solref="0.004 1"'
SEEN_ONLY = 'contype="0" conaffinity="0"'
UNSEEN = 'size="0.001" rgba="0 0 0 0"'
WEIGHTLESS = f'{SEEN_ONLY} mass="0"'
HIDDEN_GROUP = 4
"""Geometries of this group are touched and not drawn."""


def build() -> mujoco.MjModel:
    """The compiled scene."""
    return mujoco.MjModel.from_xml_string(describe())


def describe() -> str:
    """The scene in MuJoCo's XML: metres, kilograms, radians."""
    slides = "".join(
        f"""
   <body name="{axis}" {'pos="0 0 ' + str(WRIST_HEIGHT_M) + '" ' if axis == "x" else ""}gravcomp="1">
    <joint name="slide_{axis}" type="slide" axis="{direction}" damping="70"/>
    <inertial pos="0 0 0" mass="0.3" diaginertia="1e-3 1e-3 1e-3"/>"""
        for axis, direction in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
    )
    return f"""
<mujoco model="needle">
 <compiler angle="radian"/>
 <option timestep="{1 / PHYSICS_HZ}" integrator="implicitfast" cone="elliptic" gravity="0 0 -9.81"/>
 <visual>
  <quality offsamples="0" shadowsize="0"/> <map znear="0.01" zfar="20"/>
  <headlight ambient="0.32 0.32 0.32" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
 </visual>
 <asset>
  <texture name="cloth" type="2d" builtin="checker" rgb1="0.36 0.47 0.50" rgb2="0.38 0.49 0.52" width="64" height="64"/>
  <material name="cloth" texture="cloth" texrepeat="120 120" specular="0" shininess="0"/>
  <material name="steel" rgba="0.80 0.81 0.85 1" specular="0.8" shininess="0.6"/>
  <material name="dark" rgba="0.20 0.22 0.26 1" specular="0.3" shininess="0.3"/>
  <material name="light" rgba="0.90 0.91 0.93 1" specular="0.3" shininess="0.4"/>
 </asset>
 <worldbody>
  <light pos="0.2 -0.3 0.8" dir="-0.2 0.3 -0.8" diffuse="0.65 0.65 0.65" castshadow="false"/>
  <geom name="table" type="plane" size="3 3 0.2" material="cloth"/>
  <camera name="front" pos="0 -0.34 0.27" xyaxes="1 0 0 0 0.62 0.78" fovy="42"/>
  <camera name="side" pos="0.34 0 0.22" xyaxes="0 1 0 -0.5 0 0.86" fovy="42"/>
  <body name="block" mocap="true">{"".join(_pad(colour, seen=False) for colour in COLOURS)}</body>
  <body name="seen_block" mocap="true">{_tissue()}{"".join(_pad(colour, seen=True) for colour in COLOURS)}</body>
  {slides}
   <body name="wrist" gravcomp="1">
    <joint name="hinge_x" type="hinge" axis="1 0 0" damping="0.2"/>
    <joint name="hinge_y" type="hinge" axis="0 1 0" damping="0.2"/>
    <joint name="hinge_z" type="hinge" axis="0 0 1" damping="0.2"/>
    <geom type="cylinder" size="0.02 0.02" pos="0 0 0.03" material="light" mass="0.2" {SEEN_ONLY}/>
    <geom type="cylinder" size="0.0205 0.003" pos="0 0 0.03" rgba="0.20 0.55 0.75 1" {WEIGHTLESS}/>
    <geom type="cylinder" size="0.024 0.03" pos="0 0 0.08" material="dark" {WEIGHTLESS}/>
    <geom type="cylinder" size="0.010 0.006" pos="0 0 0.004" material="dark" {WEIGHTLESS}/>
    <camera name="wrist" pos="0.06 0 0.03" xyaxes="0 1 0 -0.83 0 0.555" fovy="70"/>
    {_needle()}
   </body></body></body></body>
 </worldbody>
 <contact><exclude body1="wrist" body2="needle"/></contact>
 <actuator>
  {"".join(f'<position joint="slide_{axis}" kp="1500" ctrlrange="-0.15 0.15"/>' for axis in "xyz")}
  {"".join(f'<position joint="hinge_{axis}" kp="6" ctrlrange="-0.5 0.5"/>' for axis in "xyz")}
 </actuator>
 <sensor><force name="force" site="wrist_sensor"/><torque name="torque" site="wrist_sensor"/></sensor>
</mujoco>"""


def _pad(colour: str, *, seen: bool) -> str:
    """Four boxes around a hole, and the site in the middle of its mouth."""
    x = (COLOURS.index(colour) - 1) * HOLE_SPACING_M
    thickness = (PAD_HALF_WIDTH_M - HOLE_HALF_WIDTH_M) / 2
    offset, half_height = HOLE_HALF_WIDTH_M + thickness, BLOCK_HEIGHT_M / 2
    kind = SEEN_ONLY if seen else f'{CONTACT} condim="4" group="{HIDDEN_GROUP}"'
    boxes = "".join(
        f'<geom type="box" pos="{x + dx} {dy} {half_height}" size="{wide} {deep} {half_height}" '
        f'rgba="{RGBA[colour]}" {kind}/>'
        for dx, dy, wide, deep in (
            (offset, 0, thickness, PAD_HALF_WIDTH_M),
            (-offset, 0, thickness, PAD_HALF_WIDTH_M),
            (0, offset, HOLE_HALF_WIDTH_M, thickness),
            (0, -offset, HOLE_HALF_WIDTH_M, thickness),
        )
    )
    # Without shadows a hole would be as bright as its rim: what is seen is filled with darkness to just below it.
    dark = (
        f'<geom type="box" pos="{x} 0 {half_height - 0.001}" rgba="0.05 0.02 0.03 1" {SEEN_ONLY} '
        f'size="{HOLE_HALF_WIDTH_M} {HOLE_HALF_WIDTH_M} {half_height - 0.001}"/>'
    )
    name = f"{'seen' if seen else 'true'}_{colour}"
    return f'{boxes}{dark if seen else ""}<site name="{name}" pos="{x} 0 {BLOCK_HEIGHT_M}" {UNSEEN}/>'


def _tissue() -> str:
    """What is seen around the pads; they stand out of it a little."""
    return (
        f'<geom type="box" pos="0 0 0.0185" size="0.056 0.020 0.0185" rgba="{TISSUE_RGBA}" {SEEN_ONLY}/>'
        f'<geom type="box" pos="0 0 0.004" size="0.062 0.026 0.004" rgba="0.62 0.66 0.70 1" {SEEN_ONLY}/>'
    )


def _needle() -> str:
    """The cylinder that is seen, the spheres that touch, the sensor at the top and the tip."""
    spheres = "".join(
        f'<geom type="sphere" size="{SPHERE_RADIUS_M}" {CONTACT} condim="3" mass="0" group="{HIDDEN_GROUP}" '
        f'pos="{(NEEDLE_RADIUS_M - SPHERE_RADIUS_M) * math.cos(angle)} '
        f'{(NEEDLE_RADIUS_M - SPHERE_RADIUS_M) * math.sin(angle)} {height + SPHERE_RADIUS_M - TIP_BELOW_WRIST_M}"/>'
        for height, number in RINGS
        for angle in (2 * math.pi * place / number for place in range(number))
    )
    return (
        f'<body name="needle" gravcomp="1"><site name="wrist_sensor" {UNSEEN}/>'
        f'<geom type="cylinder" fromto="0 0 0.01 0 0 {-TIP_BELOW_WRIST_M}" size="{NEEDLE_RADIUS_M}" material="steel" '
        f'mass="0.05" {SEEN_ONLY}/>{spheres}<site name="tip" pos="0 0 {-TIP_BELOW_WRIST_M}" {UNSEEN}/></body>'
    )
