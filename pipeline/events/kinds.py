"""Define the kinds of event and artefact in one table, from which every other list of kinds derives. Data only.

A saved model keeps the list that it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NOISE = "noise"


class Place(StrEnum):
    """Where an event occurs: on a star or on none."""

    STAR = "a star"
    EITHER = "a star or none"
    NO_STAR = "no star"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Properties of one kind of event or artefact.

    Parameters
    ----------
    name : str
        As in truth tables, settings and candidates.
    what : str
        What it is and by which formula it is drawn, in words.
    signs : tuple of int
        1 if it adds light, -1 if it takes light away; both if it may do either.
    source : str
        Source of formula and ranges; empty if they are a choice.
    """

    name: str
    what: str
    signs: tuple[int, ...] = (1,)
    source: str = ""

    @property
    def is_event(self) -> bool:
        """Whether a search should find it."""
        return isinstance(self, EventKind)


@dataclass(frozen=True, kw_only=True)
class EventKind(Kind):
    """Properties of one kind of event.

    Parameters
    ----------
    place : Place
    scale : str
        Meaning of ``Event.scale_rows``, in words.
    scale_s : (float, float)
        Range of the scale in seconds, drawn log-uniformly.
    extent : (float, float)
        Rows before and after the peak that hold the central 90 % of the fluence (of an eclipse: of the change of
        light), in units of the scale. Both are 0 if it lasts as long as the streak.
    relative_amplitude : (float, float)
        Plausible range of the change of flux over the star's own flux: of flickering its rms, of oscillations half of
        the difference between crest and trough. Unlimited for kinds without a star.
    share : float
        Share of the events that an injection draws by default. Scenes by default draw all kinds with a share, equally
        often.
    is_endless : bool
        It lasts beyond any file, so its S/N has no optimum.
    is_counted : bool
        Whether it counts in completeness.
    cube_scale_rows : (float, float), optional
        Range of the scale in images of a cube whose profile gives none; None for kinds that a cube cannot show.
    shown_s : float, optional
        Seconds of it that a picture shows; None if all of it fits.
    """

    place: Place
    scale: str
    scale_s: tuple[float, float]
    extent: tuple[float, float]
    relative_amplitude: tuple[float, float] = (0.0, float("inf"))
    share: float = 0.0
    is_endless: bool = False
    is_counted: bool = True
    cube_scale_rows: tuple[float, float] | None = None
    shown_s: float | None = None


# the position is the class index of stored labels, so kinds are only ever appended
KIND_TABLE = {
    kind.name: kind
    for kind in (
        Kind(name=NOISE, what="nothing but noise", signs=(-1, 1)),
        EventKind(
            name="flare",
            what="continuous template of a stellar flare: Gaussian rise, two exponential decays",
            place=Place.STAR,
            scale="width",
            scale_s=(0.05, 60.0),
            extent=(0.5, 15.5),
            relative_amplitude=(0.1, 20.0),
            share=0.3,
            cube_scale_rows=(0.5, 8.0),
            source="Tovar Mendoza et al. 2022",
        ),
        EventKind(
            name="burst",
            what="top-hat or Gaussian",
            place=Place.EITHER,
            scale="length, or FWHM",
            scale_s=(3e-4, 1.0),
            extent=(0.75, 0.75),
            relative_amplitude=(0.1, 100.0),
            share=0.4,
            cube_scale_rows=(1.0, 24.0),
        ),
        EventKind(
            name="occultation",
            what="Fresnel diffraction by a disc of radius 0.3–2 that passes at 0–2 Fresnel scales, averaged over a "
            "band of ±13 % and a stellar disc of radius 0–1",
            signs=(-1,),
            place=Place.STAR,
            # the scale is 1.28 km at 40 au and 550 nm: 5 to 30 of them a second
            scale="time in which the shadow moves by a Fresnel scale",
            scale_s=(1 / 30, 1 / 5),
            extent=(3.2, 3.2),
            relative_amplitude=(0.1, 1.0),
            share=0.2,
            source="Roques, Moncuquet & Sicardy 1987",
        ),
        EventKind(
            name="glint",
            what="Gaussian flash of a satellite",
            place=Place.NO_STAR,
            scale="FWHM",
            scale_s=(0.1, 0.3),
            extent=(0.75, 0.75),
            share=0.1,
            is_counted=False,  # within one amplifier it cannot be distinguished from a burst
            source="Nir et al. 2021, arXiv:2011.03497",
        ),
        Kind(name="cosmic_ray", what="charge of a particle: muon's track, or electron's worm", source="Groom 2002"),
        Kind(name="pickup", what="interference: 1–6 rows that all columns share", signs=(-1, 1)),
        EventKind(
            name="eclipse",
            what="lunar limb: Fresnel diffraction by a straight edge, either direction, band and stellar disc as for "
            "an occultation",
            signs=(-1, 1),
            place=Place.STAR,
            # the scale is 10.7 m at the Moon and 600 nm; limbs move 0.1 to 1 km/s
            scale="time in which the shadow moves by a Fresnel scale",
            scale_s=(1e-3, 0.1),
            extent=(4.0, 4.0),
            relative_amplitude=(0.05, 1.0),
            is_endless=True,
            is_counted=False,
            source="Born & Wolf § 8.7.3; Nather & Evans 1970",
        ),
        EventKind(
            name="pulsar",
            what="pulses and interpulses of the Crab pulsar, Gaussian",
            place=Place.NO_STAR,
            scale="time over which it pulses",
            scale_s=(0.5, 30.0),
            extent=(0.5, 0.5),
            is_endless=True,
            is_counted=False,
            shown_s=0.4,
            source="Percival et al. 1993",
        ),
        EventKind(
            name="flickering",
            what="red noise f^−γ with γ 1.5–2.5",
            signs=(-1, 1),
            place=Place.STAR,
            scale="longest wave",
            scale_s=(20.0, 60.0),
            extent=(0.0, 0.0),
            relative_amplitude=(0.01, 0.1),
            is_endless=True,
            is_counted=False,
            shown_s=30.0,
            source="Timmer & König 1995; Bruch 1992",
        ),
        EventKind(
            name="qpo",
            what="quasi-periodic oscillation: Lorentzian spectrum of quality 10",
            signs=(-1, 1),
            place=Place.STAR,
            scale="period",
            scale_s=(5.0, 40.0),
            extent=(0.0, 0.0),
            relative_amplitude=(0.001, 0.05),
            is_endless=True,
            is_counted=False,
            shown_s=60.0,
            source="van der Klis 1989",
        ),
        Kind(name="satellite", what="trail of a satellite, geosynchronous or in low orbit", source="Tyson et al. 2020"),
        Kind(name="aircraft", what="trails of two wing tips with a strobe", source="14 CFR 25.1391, 25.1401"),
        Kind(name="meteor", what="trail of 0.1–0.6 s", source="Ohsawa et al. 2019"),
        Kind(name="ghost", what="annulus of a bright star's light across the field", source="Yang, Zhu & Song 2002"),
        Kind(name="hot_column", what="column of dark current, steady or blinking"),
        Kind(name="trap", what="trap that takes a part of each packet of its column until it is full", signs=(-1,)),
        Kind(name="dropped_rows", what="rows of zeros in all amplifiers of a CCD", signs=(-1,)),
    )
}
EVENT_TABLE = {name: kind for name, kind in KIND_TABLE.items() if isinstance(kind, EventKind)}

KINDS = tuple(KIND_TABLE)
EVENT_KINDS = tuple(EVENT_TABLE)
DEFAULT_KINDS = tuple(name for name, kind in EVENT_TABLE.items() if kind.share)
EITHER_KINDS = tuple(name for name, kind in EVENT_TABLE.items() if kind.place == Place.EITHER)
STAR_KINDS = tuple(name for name, kind in EVENT_TABLE.items() if kind.place != Place.NO_STAR)
ENDLESS_KINDS = tuple(name for name, kind in EVENT_TABLE.items() if kind.is_endless)
UNCOUNTED_KINDS = tuple(name for name, kind in EVENT_TABLE.items() if not kind.is_counted)

PARTIAL_SHARE = 0.1  # default share of events that the first or the last row of a file cuts
LONGEST_FLARE_S = 2.0  # of flares that lie whole in a file; longer flares occur only as partial events, or on request
