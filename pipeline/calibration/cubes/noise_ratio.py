"""Say where the noise of the data and that of the header disagree."""

from __future__ import annotations

SMALLEST_RATIO, LARGEST_RATIO = 0.7, 2.0  # of the noise over that of the header; outside, one of them is wrong


def compare_noise(ratio: float, source: str) -> list[str]:
    """Line for the user if the noise is far from what the header says, none if it is not.

    Parameters
    ----------
    ratio : float
        Noise of the data over that of the header.
    source : str
        What in the header gives the noise, with its verb.
    """
    if SMALLEST_RATIO <= ratio <= LARGEST_RATIO or not ratio > 0:
        return []
    return [f"the noise of the data is {ratio:.2g} times what {source}"]
