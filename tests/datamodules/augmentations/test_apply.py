from __future__ import annotations

import numpy as np

from datamodules.augmentations.apply import augment
from datamodules.augmentations.colour_jitter import ColourJitter
from datamodules.augmentations.horizontal_flip import HorizontalFlip
from datamodules.augmentations.scale_jitter import ScaleJitter
from datamodules.shard_datamodule import ShardDataModule
from tests.datamodules.augmentations.examples import make_example
from tests.datamodules.build import make_split

CHANGES = [HorizontalFlip(), ColourJitter(hue=0.1), ScaleJitter(minimum=0.5, maximum=2.0)]


def test_the_outcome_follows_from_the_seed() -> None:
    example = make_example()
    made = [augment(CHANGES, example, seed).image for seed in ("0/1/a", "0/1/a", "0/2/a", "1/1/a")]
    np.testing.assert_array_equal(made[0], made[1])
    assert all((other != made[0]).any() for other in made[2:])


def test_changes_come_one_after_the_other() -> None:
    example = make_example()
    flip = HorizontalFlip(probability=1.0)
    np.testing.assert_array_equal(augment([flip, flip], example, "").image, example.image)
    assert augment([], example, "") is example


def test_epochs_differ_and_workers_do_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    make_split(tmp_path / "s", 12, num_shards=2)

    def epochs(workers: int, augmentations: list | None = CHANGES) -> list[dict[str, np.ndarray]]:  # type: ignore[type-arg]
        data = ShardDataModule(
            train=str(tmp_path / "s"), batch_size=4, num_workers=workers, image_size=32, augmentations=augmentations
        )
        data.setup("fit")
        loader = data.train_dataloader()
        found = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            found.append(
                {key: image.numpy().copy() for b in loader for key, image in zip(b.keys, b.images, strict=True)}
            )
        return found

    here, there, plain = epochs(0), epochs(2), epochs(0, None)
    assert here[0].keys() == here[1].keys() == plain[0].keys()
    for key in here[0]:
        for epoch in range(2):
            np.testing.assert_array_equal(here[epoch][key], there[epoch][key])
        np.testing.assert_array_equal(plain[0][key], plain[1][key])
        assert (here[0][key] != here[1][key]).any()
