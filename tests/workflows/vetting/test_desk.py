"""Which keys there are."""

from __future__ import annotations

from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.results.labels import ARTEFACT_KINDS
from shutterless.workflows.vetting.desk import CHOICES, CONFIDENCES


def test_every_key_has_one_meaning_and_every_artefact_a_key():
    keys = [choice.key for choice in CHOICES] + [key for key, *_ in CONFIDENCES] + ["z"]
    assert len(set(keys)) == len(keys)
    assert {choice.kind for choice in CHOICES} - {""} == set(ARTEFACT_KINDS)


def test_every_artefact_is_a_class_of_training_examples():
    assert set(ARTEFACT_KINDS.values()) <= set(KINDS)
