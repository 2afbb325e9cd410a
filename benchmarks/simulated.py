"""Sixteen simulated measurements, images and fields, written down before any search was run on them, by someone who did
not know the search's rules.
"""

import numpy as np

from .manifolds import TURN, Array, Generator, Samples
from .practice import noisy

__all__ = ["SIMULATED", "within"]


def within(g: Generator, n: int, *bounds: tuple[float, float]) -> list[Array]:
    """A column of numbers within each pair of bounds."""
    return [g.uniform(low, high, (n, 1)) for low, high in bounds]


def _clocks(g: Generator, n: int) -> Array:
    """Images of 28 × 28 pixels of a clock with two hands, at any time."""
    down, across = np.indices((28, 28)).reshape(2, 1, -1) - 13.5
    hour, image = TURN * g.random((n, 1)), np.zeros((n, 28 * 28))
    for turns, length in ((1, 7), (12, 12)):
        cosine, sine = np.cos(turns * hour), np.sin(turns * hour)
        along = np.clip(across * sine - down * cosine, 0, length)
        image += np.exp(-((across - along * sine) ** 2 + (down + along * cosine) ** 2) / 4)
    return image


def _planets(g: Generator, n: int) -> Array:
    """The disc of a spotted planet, at any turn about its axis, lit from a side."""
    y, x = (np.indices((24, 24)).reshape(2, 1, -1) - 11.5) / 12
    y, x = (pixel[:, np.hypot(x, y)[0] < 1] for pixel in (y, x))
    z, turn, sun = np.sqrt(1 - x**2 - y**2), TURN * g.random((n, 1)), g.uniform(-1, 1, (n, 1))
    east, front = np.cos(turn) * x + np.sin(turn) * z, np.cos(turn) * z - np.sin(turn) * x
    ground = sum(np.cos(a * east + b * y + c * front) for a, b, c in 2.5 * g.normal(size=(6, 3)))
    return (1 + ground / 8) * np.maximum(np.sin(sun) * x + np.cos(sun) * z, 0)


def _places_and_headings(g: Generator, n: int) -> Array:
    """Rates of 300 neurons of an animal anywhere in a box, of any heading, noise a twentieth."""
    place, heading = g.random((n, 2, 1)), TURN * g.random((n, 1))
    field, favourite = g.random((2, 300)), TURN * g.random(300)
    rate = np.exp(np.cos(heading - favourite) - ((place - field) ** 2).sum(axis=1) / 0.18)
    return noisy(g, rate, 20)


def _powders(g: Generator, n: int) -> Array:
    """X-rays scattered by fine crystals with three unlike edges, at 600 angles."""
    angle, edges, pattern = np.linspace(10, 60, 600), [4, 5, 6.5] * g.uniform(0.97, 1.03, (n, 3)), np.zeros((n, 600))
    for plane in np.indices((3, 3, 3)).reshape(3, -1).T[1:]:
        place = 2 * np.degrees(np.arcsin(0.77 * np.linalg.norm(plane / edges, axis=1, keepdims=True)))
        pattern += g.uniform(0.2, 1) * np.exp(-((angle - place) ** 2) / 2)
    return pattern


def _aerofoils(g: Generator, n: int) -> Array:
    """Outlines of NACA's four digits: camber, its place, thickness, and the angle of attack."""
    camber, place, thickness, attack = within(g, n, (0.04, 0.12), (0.2, 0.7), (0.08, 0.2), (-0.06, 0.06))
    x = (np.arange(100) + 0.5) / 100
    line = camber * (1 - ((x - place) / np.where(x < place, place, 1 - place)) ** 2)
    half = thickness * (1.4845 * np.sqrt(x) + np.polyval([-0.518, 1.4215, -1.758, -0.63, 0], x))
    x, y = np.tile(x, 2), np.concatenate((line + half, line - half), axis=1)
    return np.concatenate((np.cos(attack) * x + np.sin(attack) * y, np.cos(attack) * y - np.sin(attack) * x), axis=1)


def _yields(g: Generator, n: int) -> Array:
    """Nelson and Siegel's curves at 120 times to maturity, noise a hundredth."""
    level, slope, hump, scale = within(g, n, (3, 5), (-4, -1), (3, 7), (1, 4))
    t = np.linspace(0.25, 30, 120) / scale
    mean = (1 - np.exp(-t)) / t
    return noisy(g, level + slope * mean + hump * (mean - np.exp(-t)), 100)


def _films(g: Generator, n: int) -> Array:
    """Light of 300 colours thrown back by three films on glass, of any thickness, the upper one of any index."""
    colour, reflected = np.linspace(400, 1000, 300), np.zeros((n, 1))
    inner: Array | float = 1.52
    for index in (2.3, 1.46, g.uniform(1.7, 2.1, (n, 1))):
        step, way = (index - inner) / (index + inner), index * g.uniform(90, 150, (n, 1))
        reflected = (step + reflected) / (1 + step * reflected) * np.exp(2j * TURN * way / colour)
        inner = index
    step = (1 - inner) / (1 + inner)
    return np.abs((step + reflected) / (1 + step * reflected)) ** 2


def _impedances(g: Generator, n: int) -> Array:
    """A battery's, at 80 frequencies: two resistances, diffusion, and a capacity that is not quite one."""
    s = 1j * TURN * np.logspace(-1, 4, 80)
    near, across, diffusion, capacity = within(g, n, (0.5, 1.5), (1, 3), (0.5, 1.5), (5e-4, 2e-3))
    power = g.uniform(0.7, 0.95, (n, 1))
    z = near + 1 / (1 / (across + diffusion / np.sqrt(s)) + capacity * s**power)
    return np.concatenate((z.real, -z.imag), axis=1)


def _stars(g: Generator, n: int) -> Array:
    """Images of 24 × 24 pixels of a star out of focus, with astigmatism and coma."""
    y, x = (np.indices((12, 12)) - 5.5) / 6
    square = x**2 + y**2
    bends = np.stack((2 * square - 1, x**2 - y**2, 2 * x * y, (3 * square - 2) * x, (3 * square - 2) * y))
    phase = np.einsum("nb,byx->nyx", g.uniform(-1, 1, (n, 5)) + np.array([2, 0, 0, 0, 0]), bends)
    light = np.abs(np.fft.fft2((square < 1) * np.exp(1j * phase), (24, 24))) ** 2
    return np.fft.fftshift(light, axes=(1, 2)).reshape(n, -1)


def _vowels(g: Generator, n: int) -> Array:
    """Spectra in decibels at 200 frequencies: three resonances, their sharpness, and a slope."""
    f, (slope, width) = np.linspace(0.1, 4, 200), within(g, n, (-9, -6), (0.08, 0.25))
    level = slope * np.log2(f)
    for resonance in within(g, n, (0.4, 0.8), (1.2, 2), (2.6, 3.2)):
        ratio = f / resonance
        level -= 10 * np.log10((1 - ratio**2) ** 2 + width * ratio**2 / 4)
    return level


def _jams(g: Generator, n: int) -> Array:
    """Speeds at 20 places and 24 times on a road on which a jam runs back, of some depth, noise a twentieth."""
    place, time = np.indices((20, 24)).reshape(2, 1, -1) / np.array([2, 24]).reshape(2, 1, 1)
    head, begin, speed, length, depth = within(g, n, (7, 9), (0.1, 0.4), (3, 7), (2, 4), (40, 80))
    before = head - speed * (time - begin) - place
    edges = ((before, 0.5), (length - before, 0.5), (time - begin, 0.05))
    return noisy(g, 100 - depth * np.prod([(1 + np.tanh(edge / soft)) / 2 for edge, soft in edges], axis=0), 20)


def _floods(g: Generator, n: int) -> Array:
    """A river's flow at 240 times after two storms, of any time and amount, through one basin."""
    delay, power, first, second, *amounts = within(g, n, (3, 6), (1.5, 4), (-8, 4), (40, 52), (0.5, 1.5), (0.5, 1.5))
    flow = np.zeros((n, 240))
    for begin, amount in zip((first, second), amounts, strict=True):
        after = np.maximum(np.linspace(0, 120, 240) - begin, 0) / (delay * power)
        flow += amount * (after * np.exp(1 - after)) ** power
    return flow


def _cyclones(g: Generator, n: int) -> Array:
    """Winds at 15 × 15 places, both components: centre, strength and width, and a steady wind, noise a fiftieth."""
    centre, steady = g.uniform(-0.5, 0.5, (n, 2, 1)), g.uniform(-3, 3, (n, 2, 1))
    strength, width = g.uniform(20, 40, (n, 1, 1)), g.uniform(0.3, 0.6, (n, 1, 1))
    away = (np.indices((15, 15)).reshape(1, 2, -1) / 7 - 1 - centre) / width
    turning = strength * np.exp((1 - (away**2).sum(axis=1, keepdims=True)) / 2) * away
    return noisy(g, (steady + turning[:, ::-1] * np.array([[1], [-1]])).reshape(n, -1), 50)


def _shocks(g: Generator, n: int) -> Array:
    """Burgers' equation on a ring of 256 points, by Cole and Hopf: three waves at the start, and a steady flow."""
    k, viscosity, time, steady = np.arange(129), 0.1, 0.5, g.uniform(0.5, 1.5, (n, 1))
    waves = np.exp(1j * np.arange(1, 4)[:, None] * TURN * np.arange(256) / 256)
    potential = (g.uniform(-0.7, 0.7, (n, 3, 2)) @ [1, 1j] / np.arange(1, 4) @ waves).real
    smooth = np.fft.rfft(np.exp(-potential / (2 * viscosity))) * np.exp(-time * (viscosity * k**2 + 1j * k * steady))
    return steady - 2 * viscosity * np.fft.irfft(1j * k * smooth) / np.fft.irfft(smooth)


def _molecules(g: Generator, n: int) -> Array:
    """Distances between atoms of a coiled chain, three links or more apart, whose nine bonds turn."""
    along, aside, place = *(np.tile(axis, (n, 1)) for axis in np.eye(3)[:2]), np.zeros((n, 3))
    atoms, cosine, sine = [place, place + aside, place + np.cross(along, aside)], np.cos(1.2), np.sin(1.2)
    for turn in within(g, n, *[(0.5, 1.5)] * 9):
        aside = np.cos(turn) * aside + np.sin(turn) * np.cross(along, aside)
        along, aside = cosine * along + sine * aside, cosine * aside - sine * along
        place = place + 1.5 * along
        atoms += [place, place + aside, place + np.cross(along, aside)]
    first, second = np.triu_indices(30, 9)
    return np.linalg.norm(np.array(atoms)[first] - np.array(atoms)[second], axis=-1).T


def _cells(g: Generator, n: int) -> Array:
    """Outlines of 128 points: four waves around a circle, and its place."""
    turn = TURN * np.arange(128) / 128
    waves = np.concatenate([[np.cos(k * turn), np.sin(k * turn)] for k in (2, 3, 4, 5)])
    radius = np.exp(g.uniform(-0.3, 0.3, (n, 8)) / [2, 2, 3, 3, 4, 4, 5, 5] @ waves)
    outline = radius[:, None] * np.stack((np.cos(turn), np.sin(turn))) + g.uniform(-0.3, 0.3, (n, 2, 1))
    return outline.reshape(n, -1)


SIMULATED = (
    Samples("images of a clock", 1, _clocks),
    Samples("images of a planet", 2, _planets),
    Samples("places and headings, noise", 3, _places_and_headings),
    Samples("diffraction by powders", 3, _powders),
    Samples("aerofoils", 4, _aerofoils),
    Samples("yield curves, noise", 4, _yields),
    Samples("thin films", 4, _films),
    Samples("impedances of a battery", 5, _impedances),
    Samples("images of a star", 5, _stars),
    Samples("vowels", 5, _vowels),
    Samples("jams, noise", 5, _jams),
    Samples("floods", 6, _floods),
    Samples("winds of a cyclone, noise", 6, _cyclones),
    Samples("shocks", 7, _shocks),
    Samples("molecules", 9, _molecules),
    Samples("outlines of cells", 10, _cells),
)
