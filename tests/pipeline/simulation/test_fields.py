from shutterless.pipeline.simulation.fields import draw_fields, drawn_seed
from shutterless.pipeline.simulation.settings import SceneSettings

BASE = SceneSettings(sequence="night", rows=200, events=3, first_row=None)


def test_same_seed_gives_the_same_fields_and_another_seed_gives_others():
    assert draw_fields(7, 5, BASE) == draw_fields(7, 5, BASE)
    seeds = {field.seed for seed in (7, 8) for field in draw_fields(seed, 50, BASE)}
    assert len(seeds) == 100


def test_every_field_has_its_own_air_and_name_but_the_common_rows():
    fields = draw_fields(7, 20, BASE)
    assert len({field.seeing_arcsec for field in fields}) == len({field.sequence for field in fields}) == 20
    assert {(field.rows, field.events, field.atmosphere, field.detector) for field in fields} == {(200, 3, True, True)}


def test_quiet_fields_hold_the_same_stars_in_still_air():
    moving, still = draw_fields(7, 3, BASE), draw_fields(7, 3, BASE, quiet=True)
    assert [field.n_bright_stars for field in moving] == [field.n_bright_stars for field in still]
    assert not any(field.atmosphere or field.detector or field.sky_lights for field in still)


def test_the_name_of_a_drawn_field_tells_its_seed():
    assert {drawn_seed(field.sequence) for field in draw_fields(9001, 3, BASE)} == {9001}
    assert [drawn_seed(name) for name in ("night", "night-7", "night-7-12", "2026-03-04")] == [None] * 4
