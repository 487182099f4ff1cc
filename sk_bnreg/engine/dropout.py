"""Dropout masks that torch and the compiled kernel draw alike."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Dropout:
    """Inverted dropout masks of a stack's members, from a counter-based generator that the compiled kernel shares.

    Parameters
    ----------
    rates : sequence of float
        The share of units that each member drops.
    units : sequence of int
        Units of each hidden layer.
    seeds : sequence of int
        One per member.
    step : int
        Steps that lie behind.
    like : Tensor
        Of the masks' dtype and device.
    """

    def __init__(self, rates: Sequence[float], units: Sequence[int], seeds: Sequence[int], step: int, like: Tensor):
        self.units, self.seeds, self.step, self.like = units, seeds, step, like
        self.n_kept = torch.tensor([n_kept(rate) for rate in rates], device=like.device)[:, None, None]

    def draw(self, n_rows: int) -> tuple[Tensor, ...]:
        """Return the next step's mask per hidden layer, ``(M, H, B)``, with mean one.

        A unit is kept if 16 bits of a hash of its place in the batch and the step's key are below a threshold.
        """
        # a counter in place of a generator's state: the kernel draws any unit's mask again without keeping it
        keys = torch.tensor([key_of_step(seed, self.step) for seed in self.seeds], device=self.like.device)
        self.step += 1
        first, second = keys[:, :, None, None].unbind(1)  # (M, 1, 1)
        n_units = sum(self.units)
        place = torch.arange(n_units * n_rows, device=self.like.device).view(n_rows, n_units).T  # (H, B)
        x = place ^ first
        # two rounds of a multiplicative hash; the low 32 bits of a product are right even where 64 overflow
        for shift, factor, key in ((16, 0x7FEB352D, second), (15, 0x846CA68B, 0)):
            x = ((x ^ (x >> shift)) * factor & 0xFFFFFFFF) ^ key
        kept = (x >> 16) < self.n_kept
        return (kept * (2**16 / self.n_kept.to(self.like))).split(list(self.units), dim=1)


def n_kept(rate: float) -> int:
    """Return how many of 2**16 values of a hash keep a unit that is dropped at this rate.

    At least one value drops it, if the rate is not 0; then 2**16 alone means that there is no dropout.
    """
    return 2**16 if rate == 0 else min(round((1 - rate) * 2**16), 2**16 - 1)


def key_of_step(seed: int, step: int) -> tuple[int, int]:
    """Return two words of 32 bits for the dropout of a step: SplitMix64's output number `step`.

    References
    ----------
    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    z = seed + step * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> shift)) * factor & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32
