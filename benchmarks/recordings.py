"""Sixteen tables as engineers and scientists record them, a row for each sample, columns of like spread, written down
by someone who did not know the search's rules and ran no estimate of the dimension on them.

The units are fixed: columns divided by their standard deviation would depend on the other samples, and the rank of the
derivative could be too high.
"""

import numpy as np
import torch

from .manifolds import TURN, Array, Generator, Samples
from .simulated import within

__all__ = ["RECORDED"]


def _table(*columns: Array) -> Array:
    return np.concatenate(columns, axis=1)


def _above(x: Array, softness: float) -> Array:
    """x where it is positive, zero elsewhere, around a soft corner."""
    return softness * np.logaddexp(0, x / softness)


def _sensed(g: Generator, x: Array, ratio: float) -> Array:
    """With noise whose standard deviation is ``ratio`` times smaller than that of the column."""
    return x + x.std(axis=0) / ratio * g.normal(size=x.shape)


def _wind_turbine(g: Generator, n: int) -> Array:
    """What a turbine's controller logs, at any wind: it turns faster, then pitches its blades, noise a thirtieth."""
    wind = g.uniform(4, 18, (n, 1))
    power, speed = (1 + (11.5 / wind) ** 18) ** (-1 / 6), 12 - _above(12 - 1.3 * wind, 0.7)
    pitch, thrust, torque = 3 * _above(wind - 11.5, 0.5), 12 * power / wind, 12 * power / speed
    heat = np.array([0, 0.3, 1]) * power**2 + np.array([1, 0.3, 0]) * speed / 12
    shaken = 1 / (1 + (speed - np.array([7, 10])) ** 2) + wind / 30
    log = _table(wind / 4, speed / 2, pitch / 6, 3 * power, 3 * torque, 4 * thrust, 4 * heat, 4 * shaken)
    return _sensed(g, _table(log, 4 * thrust * np.cos(np.radians(2 * pitch)), 0.2 * wind * (1.2 - 0.5 * thrust)), 30)


def _gait(g: Generator, n: int) -> Array:
    """A walker at any time of the stride: angles, forces and muscles of both legs, the pelvis, noise a twentieth."""
    stride = TURN * g.random((n, 1))
    leg = stride + np.array([0, TURN / 2])
    hip, knee = np.cos(leg) + 0.2 * np.cos(2 * leg + 1), 2 * np.exp(4 * np.cos(leg - 4.4) - 4) + 0.3 * np.sin(2 * leg)
    ankle, force = 0.6 * np.sin(2 * leg) - 2 * np.exp(6 * np.cos(leg - 3.8) - 6), 2 / (1 + np.exp(-5 * np.sin(leg) - 1))
    muscles = [2 * np.exp(5 * np.cos(leg - at) - 5) for at in (0.2, 1.5, 2.9, 5.5)]
    return _sensed(g, _table(hip, knee, ankle, force, *muscles, np.cos(2 * stride), np.sin(stride - 0.4)), 20)


def _solar_cell(g: Generator, n: int) -> Array:
    """The current at 24 voltages, in any light and at any temperature."""
    light, warm = within(g, n, (0.2, 1), (5, 65))
    kelvin, voltage = warm + 273, np.linspace(0.1, 0.6, 24)
    leak = 1e-10 * (kelvin / 298) ** 3 * np.exp(43.6 * (1 - 298 / kelvin))
    current = light * (1 + 0.0005 * (warm - 25)) - leak * np.expm1(11_605 * voltage / kelvin) - 0.1 * voltage
    return 4 * _above(current, 0.03)


def _estuary(g: Generator, n: int) -> Array:
    """Salt, levels and currents along it, at any time of the tide, the river high or low, noise a fiftieth."""
    tide, river = TURN * g.random((n, 1)), np.exp(g.uniform(-1, 1.5, (n, 1)))
    place, gauge = np.linspace(2, 32, 12), np.linspace(0, 50, 6)
    salt = 1 / (1 + np.exp((place - 20 * river ** (-1 / 3) - 6 * np.sin(tide)) / 4))
    late, narrow = tide - gauge / 40, np.exp(-gauge / 60)
    level = narrow * np.cos(late) + 0.2 * gauge / 50 * river**0.6
    return _sensed(g, _table(3 * salt, level, 0.2 * river / (0.3 + level / 8 + narrow) - narrow * np.sin(late)), 50)


def _stars(g: Generator, n: int) -> Array:
    """Magnitudes in 12 colours of stars of any temperature and distance, behind dust, and lines in their spectra."""
    kelvin, dust, away = within(g, n, (3_500, 10_000), (0, 2), (0.5, 1.5))
    colour = np.array([0.36, 0.44, 0.48, 0.55, 0.62, 0.75, 0.9, 1.25, 1.65, 2.2, 3.4, 4.6])
    bright = 1 / (colour**5 * np.expm1(14_388 / (colour * kelvin)))
    lines = 3 * np.exp(-(np.log(kelvin / np.array([3_300, 4_700, 6_500, 9_500])) ** 2) / 0.08)
    return _table(5 * np.log10(away) - 2.5 * np.log10(bright) + dust * 0.4 * colour**-1.6, lines)


def _plots(g: Generator, n: int) -> Array:
    """Roots of the cover of 45 plants on plots of any height, moisture and acidity, noise a thirtieth."""
    best, wide = g.uniform(-1.2, 1.2, (3, 45)), g.uniform(0.5, 1.2, (3, 45))
    cover = np.exp(-(((g.uniform(-1, 1, (n, 3, 1)) - best) / wide) ** 2).sum(axis=1) / 2)
    return _sensed(g, 3 * np.sqrt(g.uniform(0.3, 1, 45) * cover), 30)


def _car(g: Generator, n: int) -> Array:
    """What a car's computers know as it drives on any slope, at any speed and with any acceleration, both ways."""
    speed, push, aside, slope = within(g, n, (8, 30), (-2.5, 2.5), (-4, 4), (-0.12, 0.12))
    felt, yaw = push + 9.81 * np.sin(slope), aside / speed
    pull = felt + 0.15 + 0.0005 * speed**2
    front, left = np.array([1, 1, -1, -1]), np.array([1, -1, 1, -1])
    load = (np.cos(slope) - 0.06 * front * felt) * (1 - 0.1 * left * aside)
    wheels = (speed - 0.75 * left * yaw) * (1 + 0.02 * (front > 0) * pull / load)
    steering, engine = np.arctan(2.7 * yaw / speed) + 0.002 * aside, np.sqrt(1 + (speed / 12) ** 2 + _above(pull, 0.4))
    pedals = _table(np.tanh(_above(pull, 0.4) / 3) * 2.5, _above(-pull, 0.3))
    motion = _table(speed / 6, push / 1.4, felt / 1.5, aside / 2.3, 6 * yaw, 25 * steering, speed * np.sin(slope))
    return _table(motion, wheels / 6, 3 * load, pedals, 2 * engine, pull * speed / 40)


def _survey(g: Generator, n: int) -> Array:
    """Answers on sliding scales to 48 questions, of people with four traits, noise a twentieth."""
    loading = 1.5 * np.tile(np.eye(4), 12) + 0.5 * g.normal(size=(4, 48))
    return _sensed(g, 4 / (1 + np.exp(-g.normal(size=(n, 4)) @ loading - g.normal(size=48))), 20)


def _blood(g: Generator, n: int) -> Array:
    """Gases, acid and salts in the blood of patients, and how they breathe."""
    dioxide, oxygen, base, red, warm = within(g, n, (30, 60), (35, 100), (18, 32), (8, 17), (35, 40))
    ph = 6.1 + np.log10(base / (0.0307 * dioxide))
    half = 26.6 * 10 ** (0.48 * (7.4 - ph) + 0.024 * (warm - 37))
    full, spent = (1 / (1 + (half / pressure) ** 2.7) for pressure in (oxygen, 0.6 * oxygen))
    content, breath = 1.34 * red * full + 0.003 * oxygen, _above(dioxide - 38, 4) * (1 + 30 / oxygen)
    pulse = 60 + 8 * (warm - 37) + 600 / content
    gases = _table(dioxide / 9, oxygen / 18, base / 4, 10 * ph, 12 * full, 8 * spent, half / 4, content / 4)
    salts = _table((base - 24 + 15 * (ph - 7.4)) / 4, 10 * 10 ** (7.4 - ph) / 4, 4 - 12 * (ph - 7.4) + base / 8)
    return _table(gases, salts, red / 2.5, warm / 1.4, breath / 12, pulse / 20, pulse * content / 300)


def _options(g: Generator, n: int) -> Array:
    """Prices of a stock's future and its calls, by Black's formula: spot, interest, and a surface of volatilities."""
    spot, interest, level, skew, later = within(g, n, (95, 105), (0, 0.08), (0.2, 0.4), (-0.4, 0.1), (-0.05, 0.05))
    strike, years = np.meshgrid(np.linspace(80, 120, 6), np.array([0.25, 0.5, 1, 2]))
    strike, years = strike.reshape(1, -1), years.reshape(1, -1)
    future = spot * np.exp(interest * years)
    spread = (level + skew * np.log(strike / 100) + later * np.log(years)) * np.sqrt(years)
    high = np.log(future / strike) / spread + spread / 2
    share, struck = (torch.special.ndtr(torch.from_numpy(z)).numpy() for z in (high, high - spread))
    return _table(future[:, ::6], np.exp(-interest * years) * (future * share - strike * struck)) / 5


def _turned(place: Array, axis: int, angle: Array) -> Array:
    """Places ``[n, points, 3]``, turned about an axis."""
    turned, (i, j) = place.copy(), ((axis + 1) % 3, (axis + 2) % 3)
    turned[..., i] = np.cos(angle) * place[..., i] - np.sin(angle) * place[..., j]
    turned[..., j] = np.sin(angle) * place[..., i] + np.cos(angle) * place[..., j]
    return turned


def _hexapod(g: Generator, n: int) -> Array:
    """Lengths and directions of the six legs of a platform, moved and turned in any way."""
    around = np.radians(np.repeat((0, 120, 240), 2) + np.outer((8, 50), np.tile((-1, 1), 3)))
    feet, tops = np.stack((np.cos(around), np.sin(around), 0 * around), axis=2)
    legs = np.tile(0.6 * tops, (n, 1, 1))
    for axis in range(3):
        legs = _turned(legs, axis, g.uniform(-0.5, 0.5, (n, 1)))
    legs += g.uniform(-0.3, 0.3, (n, 1, 3)) + np.array([0, 0, 1]) - feet
    length = np.linalg.norm(legs, axis=2)
    return 5 * _table(length, *(legs[..., :2] / length[..., None]).transpose(2, 0, 1))


def _nose(g: Generator, n: int) -> Array:
    """Forty gas sensors in air with six vapours, which compete for their surfaces, noise a hundredth."""
    amount = 10 ** g.uniform(-0.7, 0.7, (n, 6))
    held = np.exp(g.normal(size=(6, 40)) - 1)
    return _sensed(g, 4 * np.log1p(amount @ (held * g.uniform(0, 4, (6, 40))) / (1 + amount @ held)), 100)


def _grid(g: Generator, n: int) -> Array:
    """Flows and losses on 11 lines between 8 stations, and angles, as seven of these give or take any power."""
    ends = np.array([*((i, (i + 1) % 8) for i in range(8)), (0, 4), (1, 5), (2, 6)])
    lines = (np.eye(8)[ends[:, 0]] - np.eye(8)[ends[:, 1]])[:, 1:]
    strong, angle = g.uniform(1.5, 3, 11), np.zeros((n, 7))
    power = g.uniform(-0.6, 0.6, (n, 7)) + 0.6 * np.array([1, -1, -1, 1, -1, -1, 1])
    for _ in range(12):  # Newton's method
        gap = angle @ lines.T
        slope = np.einsum("nl,li,lj->nij", strong * np.cos(gap), lines, lines)
        angle += np.linalg.solve(slope, (power - strong * np.sin(gap) @ lines)[..., None])[..., 0]
    gap = angle @ lines.T
    return _table(2 * strong * np.sin(gap), 10 * strong * (1 - np.cos(gap)), 3 * angle)


def _reactor(g: Generator, n: int) -> Array:
    """Two substances and the temperature at 15 places of a cooled tube: feed, flow, two jackets, an ageing catalyst."""
    a, b, heat, flow, *jackets, fresh = within(
        g, n, (0.8, 1.2), (0.8, 1.4), (-0.1, 0.3), (0.7, 1.4), (-0.4, 0.2), (-0.4, 0.2), (0.6, 1.4)
    )
    record = [3 * flow]
    for step in range(60):
        main, side = fresh * a * b * np.exp(2 * heat), 0.3 * a * np.exp(4 * heat)
        a, b = a - (main + side) / flow / 40, b - main / flow / 40
        heat = heat + (0.8 * main + 0.6 * side + 2 * (jackets[step // 30] - heat)) / flow / 40
        record += [5 * a, 5 * b, 6 * heat] if step % 4 == 3 else []
    return _table(*record)


def _lifting(g: Generator, n: int) -> Array:
    """Markers on both sides of somebody who lifts a box: ankles to hands and the box's ends, in space."""
    shin, thigh, back, arm, elbow = within(g, n, (0, 0.7), (0, 1.3), (0, 1.1), (0, 1.8), (0, 1.8))
    arm = TURN / 2 - arm
    x, z, pairs = np.zeros((n, 1)), np.zeros((n, 1)), []
    ankles, knees, hips = (0.2, 0.4 + shin / 2 - TURN / 4, 0.1), (0.43, shin, 0.12), (0.43, -thigh, 0.15)
    shoulders, elbows, wrists = (0.5, back, 0.2), (0.3, arm, 0.25), (0.27, arm - elbow, 0.15)
    for long, tilt, wide in (ankles, knees, hips, shoulders, elbows, wrists, (0.3, arm - elbow, 0.3)):
        x, z = x + long * np.sin(tilt), z + long * np.cos(tilt)
        pairs += [np.stack((x, 0 * x + side, z), axis=2) for side in (-wide, wide)]
    markers = _turned(np.concatenate(pairs, axis=1), 2, g.uniform(-0.6, 0.6, (n, 1)))
    markers[..., :2] += g.uniform(-0.25, 0.25, (n, 1, 2))
    return 4 * markers.reshape(n, -1)


def _water(g: Generator, n: int) -> Array:
    """Flows, losses of pressure and chlorine at nine places of a branched water network, which draw any amounts."""
    paths = np.eye(9)  # which pipes lead from the waterworks to each place; the place's own has its number
    for place, before in enumerate((0, 0, 1, 2, 2, 5), start=3):
        paths[place] += paths[before]
    flow, beyond = np.exp(0.3 * g.normal(size=(n, 9))) @ paths, paths.sum(axis=0)
    swift = flow / beyond  # pipes are laid out for the places beyond
    return _table(2 * flow / np.sqrt(beyond), swift**1.852 @ paths.T, 10 * np.exp(-0.25 / swift @ paths.T))


RECORDED = (
    Samples("log of a wind turbine, noise", 1, _wind_turbine),
    Samples("gait, noise", 1, _gait),
    Samples("currents of a solar cell", 2, _solar_cell),
    Samples("estuary, noise", 2, _estuary),
    Samples("magnitudes of stars", 3, _stars),
    Samples("plants on plots, noise", 3, _plots),
    Samples("computers of a car", 4, _car),
    Samples("survey, noise", 4, _survey),
    Samples("gases in blood", 5, _blood),
    Samples("prices of options", 5, _options),
    Samples("legs of a hexapod", 6, _hexapod),
    Samples("electronic nose, noise", 6, _nose),
    Samples("power grid", 7, _grid),
    Samples("tubular reactor", 7, _reactor),
    Samples("markers on a lifter", 8, _lifting),
    Samples("water network", 9, _water),
)
"""The tables: their dimension is the rank of the derivative by what their generator draws."""
