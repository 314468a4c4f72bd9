"""Splits in object storage: a real S3 server, spoken to by s3fs."""

from __future__ import annotations

import pytest

from datamodules.shard_datamodule import ShardDataModule
from tests.datamodules.build import make_split

pytest.importorskip("s3fs", reason="s3fs is not installed (extra s3)")
moto_server = pytest.importorskip("moto.server", reason="moto is not installed (extra test)")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The address of two splits of 7 and 4 images, and the environment that leads to their server."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        import s3fs

        files = s3fs.S3FileSystem()
        files.mkdir("shards")
        for name, count in (("train", 7), ("val", 4)):
            split = make_split(tmp_path_factory.mktemp("s3") / name, count, num_shards=3)
            files.put(str(split), f"shards/{name}", recursive=True)
        yield "s3://shards"
    server.stop()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_validation_from_a_bucket(bucket, tmp_path, workers):
    data = ShardDataModule(
        train=f"{bucket}/train", val=f"{bucket}/v*", num_workers=workers, image_size=16, cache_dir=str(tmp_path)
    )
    data.setup("fit")
    seen = [key for batch in data.train_dataloader() for key in batch.keys]
    assert sorted(seen) == [f"img{number:05d}/0" for number in range(7)]
    validated = [key for batch in data.val_dataloader() for key in batch.keys]
    assert validated == [f"img{number:05d}/0" for number in (0, 3, 1, 2)]
    assert len(list(tmp_path.glob("*.tar"))) == 6


def test_a_cache_that_is_too_small_is_refused(bucket, tmp_path):
    data = ShardDataModule(train=f"{bucket}/train", image_size=16, cache_dir=str(tmp_path), cache_gigabytes=1e-6)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"cache_gigabytes=1e-06 cannot hold the .* GB .*shuffle_buffer=1000"):
        data.train_dataloader()


def test_a_missing_bucket_names_the_option(bucket):
    with pytest.raises(FileNotFoundError, match=r"data\.init_args\.train: s3://nowhere/train/index\.json is not there"):
        ShardDataModule(train="s3://nowhere/train").setup("fit")
