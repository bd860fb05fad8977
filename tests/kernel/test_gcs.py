"""Two kernel mounts of one GCS bucket: what one does, the other sees."""

import os
from pathlib import Path

from tests.support.gcs import FakeGcs
from tests.support.mounts import mounting, wait_until


def test_two_mounts_of_a_bucket_see_each_other(gcs: FakeGcs, tmp_path: Path) -> None:
    bucket = gcs.make_bucket()
    key = gcs.write_key(tmp_path / "key.json")
    options = (f"endpoint={gcs.endpoint}", f"credentials_file={key}", "refresh=1")
    spec, large = f"gs://{bucket.name}/pre", os.urandom(17 << 20)
    with (
        mounting(tmp_path / "one", spec, *options) as one,
        mounting(tmp_path / "two", spec, *options) as two,
    ):
        (one.path / "dir").mkdir()
        (one.path / "dir/small").write_text("small\n")
        (one.path / "dir/small").chmod(0o600)
        (one.path / "large").write_bytes(large)
        (one.path / "line\nfeed").touch()
        one.flush()
        expected = {"pre/dir/": b"", "pre/dir/small": b"small\n", "pre/large": large}
        assert bucket.contents() == {**expected, "pre/line\uff05000Afeed": b""}

        two.refresh_wait((two.path / "dir/small").exists, "a new file shows")
        assert (two.path / "dir/small").read_text() == "small\n"
        assert (two.path / "dir/small").stat().st_mode & 0o777 == 0o600
        assert (two.path / "large").read_bytes() == large
        assert sorted(os.listdir(two.path)) == ["dir", "large", "line\nfeed"]

        (one.path / "dir").rename(one.path / "renamed")
        one.flush()
        two.refresh_wait((two.path / "renamed/small").exists, "a rename shows")
        wait_until(lambda: "dir" not in os.listdir(two.path), "the old name is gone")

        for name in ("renamed/small", "large", "line\nfeed"):
            (two.path / name).unlink()
        (two.path / "renamed").rmdir()
        two.flush()
        assert bucket.contents() == {}
        one.refresh_wait(lambda: not os.listdir(one.path), "the removal shows")
        assert (one.unmount(), two.unmount()) == (0, 0)
        assert one.fsck() == two.fsck() == []
        for mount in (one, two):
            logged = mount.log.read_text()
            assert "PRIVATE" not in logged
            assert "token-of" not in logged
            assert "upload_id" not in logged
