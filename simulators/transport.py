"""One electron: the scalar functions that numba compiles, from the gun to its last exit.

Scales as in :mod:`simulators.relief`: lengths in pixels, energies in keV, float32. Nothing here allocates, branches on
types or knows of Python objects, so that the same bodies can serve other targets.

An electron's state in a solid is the path that is left to it (continuous slowing down), from which tables give energy,
mean free path and angles: the loss along a step is then exact, and a step costs one row of a table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.relief import (
    F0,
    F1,
    F2,
    F3,
    FAR,
    HALF,
    clearance,
    crossing,
    interface,
    material_at,
    near_clearance,
    stays_in_layer,
    stays_inside,
)
from simulators.target import device

TO_UNIT = np.float32(2.0**-24)
TO_ANGLE = np.float32(2.0**-22)
TWO_PI = np.float32(2 * math.pi)
# Of a clear ball this share may be used up before asking again whether the electron can still leave.
LOOK_AGAIN = np.float32(0.25)
ALMOST = np.float32(0.9999)

MULTIPLIER = np.uint64(6364136223846793005)
U18, U27, U59 = np.uint64(18), np.uint64(27), np.uint64(59)
WORD = np.uint64(0xFFFFFFFF)
U8, U10, U31, U32 = np.uint64(8), np.uint64(10), np.uint64(31), np.uint64(32)
TURN = np.uint64(1023)

# The turn in 1,024 directions, none of which lies on a segment's seam.
_TURNS = (np.arange(1024) + 0.5) * (2 * math.pi / 1024)
COSINES = np.cos(_TURNS).astype(np.float32)
SINES = np.sin(_TURNS).astype(np.float32)


class Gun(NamedTuple):
    """The beam.

    ``energy`` (keV); ``spread``, the standard deviation of the probe (pixels); ``convergence``, a half-angle (rad);
    ``to_sample`` (3, 3): from the microscope's axes (x, y, z) to the sample's.
    """

    energy: np.float32
    spread: np.float32
    convergence: np.float32
    to_sample: NDArray[np.float32]


@device
def draw(state: Any, stream: Any) -> Any:
    """Return the next state and 32 random bits (PCG32: M. E. O'Neill, HMC-CS-2014-0905), both as uint64."""
    mixed = (((state >> U18) ^ state) >> U27) & WORD
    turn = state >> U59
    return state * MULTIPLIER + stream, ((mixed >> turn) | (mixed << ((U32 - turn) & U31))) & WORD


@device
def uniform(bits: Any) -> Any:
    """Return a float32 in (0, 1] from 32 random bits."""
    return (np.float32(np.int32(bits >> U8)) + F1) * TO_UNIT


@device
def energy_of(scene: Any, kind: int, left: Any) -> Any:
    """Return the energy (keV) of an electron with so much path left in a material."""
    place = left * scene.per_path[kind]
    index = min(int(place), scene.energies.shape[1] - 2)
    share = place - np.float32(index)
    return scene.energies[kind, index] + share * (scene.energies[kind, index + 1] - scene.energies[kind, index])


@device
def path_of(scene: Any, kind: int, energy: Any) -> Any:
    """Return the path left to an electron of an energy (keV) in a material: the inverse of ``energy_of``."""
    low, high = 0, scene.energies.shape[1] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if scene.energies[kind, middle] <= energy:
            low = middle
        else:
            high = middle
    below, above = scene.energies[kind, low], scene.energies[kind, high]
    share = min(max((energy - below) / (above - below), F0), F1)
    return (np.float32(low) + share) / scene.per_path[kind]


@device
def turned(du: Any, dv: Any, dw: Any, loss: Any, turn: int) -> Any:
    """Return the direction scattered by the polar angle with 1 − cos θ = ``loss`` and one of 1,024 azimuths.

    The frame around the old direction is that of T. Duff et al., J. Comput. Graph. Tech. 6 (2017) 1, which has no
    pole: the usual formula leaves an electron that flies along the axis on it for ever.
    """
    sine = math.sqrt(max(loss * (F2 - loss), F0))
    cosine = F1 - loss
    p, q = sine * COSINES[turn], sine * SINES[turn]
    sign = F1 if dw >= F0 else -F1
    a = -F1 / (sign + dw)
    b = du * dv * a
    x = p * (F1 + sign * du * du * a) + q * b + cosine * du
    y = p * sign * b + q * (sign + dv * dv * a) + cosine * dv
    z = -p * sign * du - q * dv + cosine * dw
    # One Newton step keeps the length at 1 against rounding.
    scale = HALF * (F3 - (x * x + y * y + z * z))
    return x * scale, y * scale, z * scale


@device
def scattering_loss(scene: Any, kind: int, row: int, chance: Any) -> Any:
    """Return 1 − cos θ of an elastic collision: on one of the elements, Rutherford or isotropic, from one number."""
    base = 1
    if scene.elements[kind] > 1:
        low = F0
        high = scene.rows[kind, row, base]
        for _ in range(scene.elements[kind] - 1):
            if chance < high:
                break
            base += 3
            low, high = high, scene.rows[kind, row, base]
        chance = (chance - low) / (high - low)
    share, alpha = scene.rows[kind, row, base + 1], scene.rows[kind, row, base + 2]
    if chance < share:
        # With R = chance/share: 2αR/(1 + α − R), in one division.
        return min(F2 * alpha * chance / (share * (F1 + alpha) - chance), F2)
    return min(F2 * (chance - share) / (F1 - share), F2)


@device
def walk(
    scene: Any, u: Any, v: Any, w: Any, du: Any, dv: Any, dw: Any, left: Any, kind: int, state: Any, stream: Any
) -> Any:
    """Follow an electron through the solid until it stops or leaves.

    It is given up early only when the path left (times ``reach``) is shorter than the distance to the nearest surface.

    Returns whether it left, its position and direction, the path left, its material and the generator's state.
    """
    clear = plain = F0
    last = scene.rows.shape[1] - 1
    row = min(int(left * scene.per_path[kind] + HALF), last)
    while left > F0:
        state, bits = draw(state, stream)
        step = min(-scene.rows[kind, row, 0] * math.log(uniform(bits)), left)
        met = -F1
        if step > clear:
            ball = clearance(scene, scene.lowest, u, v, w)
            path = left * scene.reach[kind]
            if ball < min(path, scene.radii[0]):
                ball = max(ball, near_clearance(scene, u, v, w))
            if path < ball:
                break
            # Until it has gone half the difference it cannot come to lie deeper than its path is long.
            clear = min(ball, HALF * (path - ball) + LOOK_AGAIN * ball)
            if step > ball and not stays_inside(scene, u, v, w, dw, step):
                met = crossing(scene, u, v, w, du, dv, dw, step, F1)
        move = met if met >= F0 else step
        change = False
        if scene.layered and move > plain and not stays_in_layer(scene, u, v, w, dw, move):
            plain = clearance(scene, scene.floor, u, v, w)
            probe = ALMOST * move
            if move > plain and material_at(scene, u + du * probe, v + dv * probe, w + dw * probe) != kind:
                move = interface(scene, u, v, w, du, dv, dw, probe, kind)
                change = True
        u, v, w = u + du * move, v + dv * move, w + dw * move
        clear, plain, left = clear - move, plain - move, left - move
        if change:
            # A free path has no memory: it begins anew in the other material.
            energy = energy_of(scene, kind, max(left, F0))
            kind = material_at(scene, u, v, w)
            left, plain = path_of(scene, kind, energy), F0
        elif met >= F0:
            return True, u, v, w, du, dv, dw, max(left, F0), kind, state
        row = min(int(left * scene.per_path[kind] + HALF), last)
        if not change:
            state, bits = draw(state, stream)
            chance = (np.float32(np.int32(bits >> U10)) + HALF) * TO_ANGLE
            du, dv, dw = turned(du, dv, dw, scattering_loss(scene, kind, row, chance), int(bits & TURN))
    return False, u, v, w, du, dv, dw, F0, kind, state


@device
def aim(scene: Any, gun: Any, u: Any, v: Any, state: Any, stream: Any) -> Any:
    """Return position and direction of a beam electron above the roof, focused on (u, v, 0), and the state."""
    x: Any = F0
    y: Any = F0
    p: Any = F0
    q: Any = F0
    if gun.spread > F0:
        state, bits = draw(state, stream)
        radius = gun.spread * math.sqrt(-F2 * math.log(uniform(bits)))
        state, bits = draw(state, stream)
        angle = TWO_PI * uniform(bits)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
    if gun.convergence > F0:
        state, bits = draw(state, stream)
        radius = math.tan(gun.convergence) * math.sqrt(uniform(bits))
        state, bits = draw(state, stream)
        angle = TWO_PI * uniform(bits)
        p, q = radius * math.cos(angle), radius * math.sin(angle)
    norm = F1 / math.sqrt(F1 + p * p + q * q)
    p, q = p * norm, q * norm
    m = gun.to_sample
    dx = m[0, 0] * p + m[0, 1] * q - m[0, 2] * norm
    dy = m[1, 0] * p + m[1, 1] * q - m[1, 2] * norm
    dz = m[2, 0] * p + m[2, 1] * q - m[2, 2] * norm
    w = m[2, 0] * x + m[2, 1] * y
    back = (scene.roof + F1 - w) / dz
    u = u + m[0, 0] * x + m[0, 1] * y + back * dx
    v = v - m[1, 0] * x - m[1, 1] * y - back * dy
    return u, v, scene.roof + F1, dx, -dy, dz, state


@device
def trace(scene: Any, gun: Any, u: Any, v: Any, state: Any, stream: Any) -> Any:
    """Follow one beam electron to its end.

    Returns whether it was backscattered, the position and direction with which it left for good, its energy (keV) and
    the generator's state. After leaving the solid it flies straight, and may meet a slope again.
    """
    u, v, w, du, dv, dw, state = aim(scene, gun, u, v, state, stream)
    energy, left, kind = gun.energy, F0, -1
    while True:
        length = FAR
        if dw > F0:
            length = (scene.roof - w) / dw
        elif dw < F0:
            length = (scene.bottom - F1 - w) / dw
        met = crossing(scene, u, v, w, du, dv, dw, length, -F1) if length > F0 else -F1
        if met < F0:
            return True, u, v, w, du, dv, dw, energy, state
        u, v, w = u + du * met, v + dv * met, w + dw * met
        here = material_at(scene, u, v, w)
        if here != kind:
            kind, left = here, path_of(scene, here, energy)
        out, u, v, w, du, dv, dw, left, kind, state = walk(scene, u, v, w, du, dv, dw, left, kind, state, stream)
        if not out:
            return False, u, v, w, du, dv, dw, F0, state
        energy = energy_of(scene, kind, left)
