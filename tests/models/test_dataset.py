"""Batches, mirrored strips and splits without leakage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shutterless.models.dataset import (
    SplitError,
    StripDataset,
    labels_to_tensors,
    mirror_columns,
    pass_batch,
    split_by_group,
)
from shutterless.pipeline.tokens import unpatchify


def test_loader_gives_every_strip_once_with_its_own_label(toy, grid):
    dataset = StripDataset(toy.strips, toy.labels, grid)
    batches = list(DataLoader(dataset, batch_size=500, collate_fn=pass_batch))
    assert [len(batch["is_event"]) for batch in batches] == [500, 500, 200]
    np.testing.assert_array_equal(torch.cat([batch["patches"] for batch in batches]).numpy(), toy.strips.patches)
    np.testing.assert_array_equal(torch.cat([batch["onset"] for batch in batches]).numpy(), toy.labels.onset)
    assert batches[0]["kind"].dtype == torch.int64
    assert batches[0]["mask"].dtype == torch.bool


def test_one_strip_is_a_batch_of_one(toy, grid):
    one = StripDataset(toy.strips, toy.labels, grid)[3]
    for name in ("patches", "context", "profile", "features", "mask"):
        np.testing.assert_array_equal(one[name].numpy(), getattr(toy.strips, name)[3:4])
    assert (one["is_event"].tolist(), one["log2_duration"].tolist()) == ([1.0], [2.0])


def test_mirror_reverses_columns_and_keeps_time(toy, grid):
    dataset = StripDataset(toy.strips, toy.labels, grid)
    batch = dataset.__getitems__([0, 1])
    mirror_columns(batch, grid, torch.tensor([True, False]))
    before, after = unpatchify(toy.strips.patches[:2], grid), unpatchify(batch["patches"].numpy(), grid)
    np.testing.assert_array_equal(after[0], before[0][:, ::-1, :])
    np.testing.assert_array_equal(after[1], before[1])
    np.testing.assert_array_equal(batch["profile"][0].numpy(), toy.strips.profile[0][::-1])
    np.testing.assert_array_equal(batch["context"].numpy(), toy.strips.context[:2])


def test_half_of_the_strips_are_mirrored_and_the_stored_ones_stay(toy, grid):
    dataset = StripDataset(toy.strips, toy.labels, grid, flip_columns=True, seed=1)
    profile = dataset.__getitems__(range(1200))["profile"].numpy()
    mirrored = (profile != toy.strips.profile).any(axis=1).mean()
    assert 0.45 < mirrored < 0.55
    np.testing.assert_array_equal(dataset.inputs["profile"].numpy(), toy.strips.profile)


def test_labels_are_selected_with_their_fields_together(toy):
    picked = toy.labels[np.array([5, 0])]
    assert type(picked) is type(toy.labels)
    assert picked.is_event.tolist() == [1, 0]
    assert picked.onset[0] == toy.labels.onset[5]
    assert labels_to_tensors(picked)["log2_duration"][0] == 2


def test_split_keeps_groups_apart():
    groups = np.random.default_rng(0).integers(0, 10, 300)
    train, validation = split_by_group(groups, fraction=0.2, seed=4)
    assert not set(groups[train]) & set(groups[validation])
    assert len(set(groups[validation])) == 2
    assert sorted([*train, *validation]) == list(range(300))


def test_split_by_named_groups():
    train, validation = split_by_group(np.array([7, 7, 8, 9]), validation_groups=[8])
    assert train.tolist() == [0, 1, 3]
    assert validation.tolist() == [2]


def test_two_groups_are_enough_and_one_is_not():
    assert [len(part) for part in split_by_group(np.array([0, 0, 1, 1]), fraction=0.01)] == [2, 2]
    with pytest.raises(SplitError, match="all 5 strips are from 1 group"):
        split_by_group(np.zeros(5, int))


def test_split_refuses_all_or_nothing():
    with pytest.raises(SplitError, match=r"validation groups \[0, 1\] take 2 of 2 strips"):
        split_by_group(np.array([0, 1]), validation_groups=[0, 1])
    with pytest.raises(SplitError, match=r"validation groups \[5\] take 0 of 2 strips; the groups are \[0, 1\]"):
        split_by_group(np.array([0, 1]), validation_groups=[5])


def test_weights_of_labels_go_to_the_model_where_there_are_any(toy):
    weight = np.linspace(0, 1, len(toy), dtype=np.float32)
    labels = replace(toy.labels, weight=weight)
    batch = StripDataset(toy.strips, labels, toy.grid).__getitems__([3, 5])
    assert batch["weight"].tolist() == weight[[3, 5]].tolist()
    assert "weight" not in StripDataset(toy.strips, toy.labels, toy.grid).__getitems__([3, 5])
