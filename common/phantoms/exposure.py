"""How a site makes a picture: exposure, scatter, blur, noise, film or digital curve, collimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from common.phantoms.canvas import cloud, resized

# (digital site, film site, standard deviation between patients of one site)
_SETTINGS = {
    "zoom": (1.08, 0.97, 0.035),  # field of view: how large the chest appears
    "wander": (0.04, 0.09, 0.0),  # how far it lies from the centre, share of half a frame
    "blur": (0.25, 0.6, 0.1),  # standard deviation, in 128ths of the frame
    "noise": (0.012, 0.045, 0.35),  # of attenuation behind 2.5 nepers; deviation as a share of it
    "scatter": (0.25, 0.8, 0.12),  # scattered to primary exposure
    "center": (0.0, -0.15, 0.14),  # of mid-grey against the middle of the picture, in nepers
    "latitude": (1.75, 1.25, 0.13),  # attenuation from mid-grey to white
    "film": (0.0, 1.0, 0.0),  # straight line (0) to S-shaped film curve (1)
    "equalize": (0.25, 0.0, 0.12),  # share of large-scale contrast that processing takes out
    "edge": (0.5, 0.0, 0.2),  # edge enhancement
    "fog": (0.03, 0.09, 0.03),  # lightest tone of open exposure
    "tilt": (0.02, 0.14, 0.08),  # heel effect: change of exposure across the frame, in nepers
    "border": (0.0, 0.75, 0.0),  # probability of collimator blades in the picture
}


@dataclass
class Exposure:
    """One picture's settings. Units as in the table above."""

    site: str
    setting: dict[str, float]
    window: tuple[slice, slice] = (slice(None), slice(None))  # rows and columns that no blade covers, by `picture`

    @classmethod
    def draw(cls, rng: np.random.Generator, site_shift: float = 1.0) -> Exposure:
        """A site, half of the patients each, and this picture's settings.

        `site_shift` moves both sites away from their common mean: 0 = alike but for the spread, 1 = as in
        the table.
        """
        site = "digital" if rng.random() < 0.5 else "film"
        setting = {}
        for name, (digital, film, spread) in _SETTINGS.items():
            sign = -0.5 if site == "digital" else 0.5
            mean = 0.5 * (digital + film) + sign * site_shift * (film - digital)
            draw = float(np.clip(rng.standard_normal(), -2.0, 2.0))
            setting[name] = mean * (1.0 + spread * draw) if name == "noise" else mean + spread * draw
        for name in ("blur", "noise", "scatter", "film", "edge", "fog", "border", "equalize"):
            setting[name] = max(0.0, setting[name])
        setting["latitude"] = max(0.7, setting["latitude"])
        return cls(site, setting)

    def picture(self, attenuation: np.ndarray, keep: np.ndarray, rng, noise_rng) -> np.ndarray:
        """Attenuation (H, W) to a picture (H, W) float32 in 0..1, dense tissue bright.

        Collimator blades stay off the pixels `keep` (H, W): what is annotated is in the picture. Noise has
        its own generator, since how much of it is drawn depends on the image's size.
        """
        setting, size = self.setting, attenuation.shape[0]
        signal = self._scattered(attenuation)
        signal = signal + self._tilt(size, rng)
        signal = signal + self._noise(signal, noise_rng)
        signal = gaussian_filter(signal, setting["blur"] * size / 128.0, truncate=3.0)
        signal = self._processed(signal)
        step = (signal - self._reference(signal) - setting["center"]) / setting["latitude"]
        share = np.clip(setting["film"], 0.0, 1.0)
        tone = (1.0 - share) * np.clip(0.5 + 0.5 * step, 0.0, 1.0) + share * (0.5 + 0.5 * np.tanh(1.1 * step))
        tone = setting["fog"] + (1.0 - setting["fog"]) * tone
        return np.clip(self._framed(tone, keep, rng), 0.0, 1.0).astype(np.float32)

    @staticmethod
    def _reference(signal: np.ndarray) -> float:
        """What the automatic exposure control goes by: the mean in the middle of the frame."""
        quarter = signal.shape[0] // 4
        return float(signal[quarter:-quarter, quarter:-quarter].mean())

    def _scattered(self, attenuation: np.ndarray) -> np.ndarray:
        """Scatter adds a broad veil of exposure: -log(primary + scatter), with open air unveiled at 0."""
        primary = np.exp(-attenuation)
        veil = resized(gaussian_filter(resized(primary, 128), 9.0, mode="nearest"), attenuation.shape[0])
        ratio = self.setting["scatter"]
        return -np.log((primary + ratio * np.maximum(veil, 1e-3) * 0.5) / (1.0 + 0.5 * ratio)).astype(np.float32)

    def _tilt(self, size: int, rng: np.random.Generator) -> np.ndarray:
        across = np.linspace(-1.0, 1.0, size, dtype=np.float32)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        slope = np.float32(self.setting["tilt"])
        return slope * (np.float32(np.cos(angle)) * across[None, :] + np.float32(np.sin(angle)) * across[:, None])

    def _noise(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Quantum noise, larger where fewer photons arrive; its coarse part is the same at every size."""
        size = signal.shape[0]
        grains = 1.2 * cloud(rng, size, 128)
        if size > 128:
            grains = grains + rng.standard_normal(signal.shape, dtype=np.float32)
        return self.setting["noise"] * np.exp(0.5 * (np.clip(signal, 0.0, 4.0) - 2.5)) * grains

    def _processed(self, signal: np.ndarray) -> np.ndarray:
        """What a digital site does before display: less large-scale contrast, more of the edges."""
        setting, size = self.setting, signal.shape[0]
        small = resized(signal, 128)
        if setting["equalize"] > 0.0:
            smooth = gaussian_filter(small, 12.0, mode="nearest")
            signal = signal - setting["equalize"] * resized(smooth - smooth.mean(), size)
        if setting["edge"] > 0.0:
            signal = signal + setting["edge"] * (signal - resized(gaussian_filter(small, 1.5, mode="nearest"), size))
        return signal

    def _framed(self, tone: np.ndarray, keep: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Collimator blades: unexposed film stays white. And a side marker of lead."""
        size = tone.shape[0]
        blades = rng.random() < self.setting["border"]
        widths = rng.uniform(-0.03, 0.08, 4) * size
        marker = rng.random() < 0.5
        row, column = int(rng.uniform(0.06, 0.2) * size), int(rng.uniform(0.86, 0.92) * size)
        if marker:
            _letter_l(tone, row, column, max(1, round(0.045 * size)))
        if not blades:
            return tone
        rows, columns = np.flatnonzero(keep.any(axis=1)), np.flatnonzero(keep.any(axis=0))
        room = (rows[0], size - 1 - rows[-1], columns[0], size - 1 - columns[-1])
        top, bottom, left, right = (max(0, min(round(w), int(r))) for w, r in zip(widths, room, strict=True))
        self.window = (slice(top, size - bottom), slice(left, size - right))
        framed = np.full_like(tone, 0.97)
        framed[self.window] = tone[self.window]
        return framed


def _letter_l(tone: np.ndarray, row: int, column: int, tall: int) -> None:
    """The letter L, lead white, on the image's right."""
    stroke = max(1, tall // 5)
    tone[row : row + tall, column : column + stroke] = 1.0
    tone[row + tall - stroke : row + tall, column : column + max(stroke + 1, int(0.6 * tall))] = 1.0
