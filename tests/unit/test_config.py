"""From ``SPEC MOUNTPOINT -o OPTIONS`` to a MountConfig: values, defaults, refusals."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csyncfs import options as opt
from csyncfs.config import Host, MountConfig, Scheme, Spec, parse, parse_spec
from csyncfs.errors import ConfigError
from csyncfs.options import Addressing, Fsync, LogLevel, parse_options, quote_word, split_list

GIB = 1 << 30
DISK = 200 * GIB


def host(disk: int = DISK) -> Host:
    return Host(
        uid=1000,
        gid=100,
        name="desk",
        state_base=Path("/st"),
        cache_base=Path("/ca"),
        run_base=Path("/ru"),
        disk_size=lambda _: disk,
    )


def config(*lists: str, spec: str = "s3://bucket/pre", disk: int = DISK) -> MountConfig:
    return parse(spec, Path("/mnt"), lists, host(disk))


def refusal(*lists: str, spec: str = "s3://bucket/pre") -> str:
    with pytest.raises(ConfigError) as caught:
        config(*lists, spec=spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("s3://bucket", Spec(Scheme.S3, "bucket")),
        ("s3://bucket/", Spec(Scheme.S3, "bucket")),
        ("s3://bucket/a/b", Spec(Scheme.S3, "bucket", "a/b/")),
        ("gs://bucket.example.org/a", Spec(Scheme.GCS, "bucket.example.org", "a/")),
        ("gs://b_1", Spec(Scheme.GCS, "b_1")),
        ("s3://bucket/a b/%20/", Spec(Scheme.S3, "bucket", "a b/%20/")),
        ("az://acc1/cont", Spec(Scheme.AZURE, "cont", account="acc1")),
        ("az://acc1/cont-1/a/b/", Spec(Scheme.AZURE, "cont-1", "a/b/", account="acc1")),
        ("file:///srv/data/", Spec(Scheme.FILE, path=Path("/srv/data"))),
        ("file:///srv/a%20b", Spec(Scheme.FILE, path=Path("/srv/a%20b"))),
        ("/srv/../data", Spec(Scheme.FILE, path=Path("/data"))),
        ("memory:", Spec(Scheme.MEMORY)),
    ],
)
def test_spec_is_understood(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        *("", "bucket", "./here", "s3:bucket", "s3://", "s3://b", "s3://us er/x", "az://a/b"),
        *("az://account", "az://account/", "az://Account/cont", "az://account/c--d", "az:x"),
        *("az://account/cont/a//b", "az://account/cont/dot./b", "az://account/cont/a\\b"),
        *("gs://", "gs:bucket", "gs://Bucket", "gs://b", "gs://bucket/a//b", "gs://bucket/a\nb"),
        *("file://srv/data", "file:", "memory:x", "s3://bucket/a//b", "s3://bucket/../x"),
    ],
)
def test_wrong_spec_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3://bucket", "s3://bucket/a/b", "az://acc/cont/a/b", "file:///x/y", "memory:"]
)
def test_canonical_spec_reads_back_as_itself(text: str) -> None:
    assert str(parse_spec(text)) == text
    assert parse_spec(str(parse_spec(text))) == parse_spec(text)


def test_defaults() -> None:
    made = config()
    assert made.state_dir == Path("/st") / made.id
    assert made.cache_dir == Path("/ca") / made.id
    assert made.run_dir == Path("/ru") / made.id
    assert made.registry_dir == Path("/st/mounts")
    assert (made.refresh_s, made.upload_delay_s, made.uploads) == (30.0, 1.0, 8)
    assert (made.timeout_s, made.connect_wait_s, made.drain_s) == (30.0, 10.0, 5.0)
    assert (made.fsync, made.addressing, made.log_level) == (
        Fsync.LOCAL,
        Addressing.AUTO,
        LogLevel.INFO,
    )
    assert (made.uid, made.gid, made.file_mode, made.dir_mode) == (1000, 100, 0o644, 0o755)
    assert (made.allow_other, made.default_permissions, made.read_only) == (False, True, False)
    assert (made.device, made.endpoint, made.log_file) == ("desk", None, None)


@pytest.mark.parametrize(
    ("disk", "cache_size", "min_free"),
    [
        (2 * GIB, GIB, 2 * GIB // 20),
        (200 * GIB, 20 * GIB, 5 * GIB),
        (5000 * GIB, 100 * GIB, 5 * GIB),
    ],
)
def test_cache_follows_the_disk(disk: int, cache_size: int, min_free: int) -> None:
    made = config(disk=disk)
    assert (made.cache_size_bytes, made.min_free_bytes) == (cache_size, min_free)


def test_options_given_are_taken() -> None:
    made = config(
        "cache_size=1.5G,min_free=0,refresh=5m,upload_delay=250ms,uploads=3,fsync=remote",
        "endpoint=HTTP://Localhost:9000/,region=eu-1,profile=work,anonymous,path_style",
        "uid=5,gid=6,file_mode=600,dir_mode=0700,allow_other,nodefault_permissions,ro",
        "timeout=10,connect_wait=0,drain=0,device=lap-top,log_level=debug,log_file=/var/log/c",
        "state_dir=/my/state,cache_dir=/my/cache,run_dir=/my/run,credentials_file=/my/keys",
    )
    assert made.cache_size_bytes == GIB * 3 // 2
    assert (made.min_free_bytes, made.refresh_s, made.upload_delay_s) == (0, 300.0, 0.25)
    assert (made.uploads, made.fsync, made.endpoint) == (3, Fsync.REMOTE, "http://localhost:9000")
    assert (made.region, made.profile, made.anonymous) == ("eu-1", "work", True)
    assert made.addressing is Addressing.PATH
    assert (made.uid, made.gid, made.file_mode, made.dir_mode) == (5, 6, 0o600, 0o700)
    assert (made.allow_other, made.default_permissions, made.read_only) == (True, False, True)
    assert (made.timeout_s, made.connect_wait_s, made.drain_s) == (10.0, 0.0, 0.0)
    assert (made.device, made.log_level, made.log_file) == (
        "lap-top",
        LogLevel.DEBUG,
        Path("/var/log/c"),
    )
    assert made.state_dir == Path("/my/state")
    assert made.cache_dir == Path("/my/cache") / made.id
    assert made.run_dir == Path("/my/run") / made.id
    assert made.credentials_file == Path("/my/keys")


def test_umask_makes_modes_and_an_explicit_mode_wins() -> None:
    made = config("umask=077,dir_mode=750")
    assert (made.file_mode, made.dir_mode) == (0o600, 0o750)


def test_last_of_two_counts() -> None:
    made = config("ro,refresh=1", "rw,refresh=2,path_style,addressing=virtual,suid,nosuid")
    assert (made.read_only, made.refresh_s) == (False, 2.0)
    assert made.addressing is Addressing.VIRTUAL
    assert made.kernel_options == ("nosuid",)


def test_kernel_options_are_passed_on_and_the_rest_of_mount_is_skipped() -> None:
    made = config(
        "rw,nosuid,nodev,noexec,noatime,sync,relatime,_netdev,nofail,noauto,user,users,user=me,"
        "owner,group,defaults,comment=x,x-systemd.automount,X-mount.mkdir,atime"
    )
    assert set(made.kernel_options) == {"nosuid", "nodev", "noexec", "noatime", "sync"}
    assert made.fuse_options() == {
        *("nosuid", "nodev", "noexec", "noatime", "sync"),
        *("fsname=s3://bucket/pre", "subtype=csyncfs", "default_permissions", "rw"),
    }


def test_fuse_options_of_a_read_only_shared_mount() -> None:
    made = config("ro,allow_other,nodefault_permissions", spec="file:///a,b\\c")
    assert made.fuse_options() == {
        *("fsname=file:///a\\,b\\\\c", "subtype=csyncfs", "ro", "allow_other"),
    }


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("cach_size=1G", "unknown option 'cach_size' (did you mean 'cache_size'?)"),
        ("refrsh=1", "'refresh'"),
        ("no_exec", "'noexec'"),
        ("zzzzzzzz", "unknown option 'zzzzzzzz'"),
        ("remount", "cannot be remounted"),
        ("cache_size", "cache_size needs a value: cache_size=SIZE"),
        ("cache_size=big", "cache_size=big"),
        ("cache_size=10", "1M"),
        ("refresh=-1", "refresh=-1"),
        ("timeout=0", "timeout=0"),
        ("uploads=0", "uploads=0"),
        ("uploads=many", "uploads=many"),
        ("fsync=never", "local, remote"),
        ("addressing=dns", "auto, path, virtual"),
        ("uid=me", "uid=me"),
        ("umask=99", "umask=99"),
        ("endpoint=eu-central-1", "endpoint=eu-central-1"),
        ("endpoint=https://key:secret@host", "no user, password"),
        ("device=a/b", "device=a/b"),
        ("state_dir=here", "not an absolute path"),
        ("allow_other=perhaps", "not yes or no"),
        ("log_level=loud", "debug, info, warning, error"),
    ],
)
def test_bad_option_is_named(options: str, names: str) -> None:
    assert names in refusal(options)


def test_sloppy_skips_unknown_options_and_only_them() -> None:
    made = parse("s3://bucket", Path("/mnt"), ["zzz,refresh=3"], host(), is_sloppy=True)
    assert made.refresh_s == 3.0
    with pytest.raises(ConfigError):
        parse("s3://bucket", Path("/mnt"), ["refresh=x"], host(), is_sloppy=True)


def test_s3_options_are_refused_for_other_stores() -> None:
    assert "region is only for s3://" in refusal("region=eu-1", spec="file:///srv")


def test_one_store_has_one_id_and_another_has_another() -> None:
    same = {config(spec=s).id for s in ("s3://bucket/pre", "s3://bucket/pre/")}
    assert len(same) == 1
    others = {
        config(spec="s3://bucket/pre2").id,
        config("endpoint=http://localhost:1").id,
        config("endpoint=http://localhost:2").id,
        config("state_dir=/elsewhere").id,
    }
    assert len(others | same) == 5
    assert next(iter(same)).startswith("s3-bucket-pre-")


def test_id_does_not_depend_on_how_the_store_is_used() -> None:
    assert config("ro,refresh=1,cache_dir=/x,region=eu-1").id == config().id


@pytest.mark.parametrize(
    ("options", "spec", "mountpoint"),
    [
        ("", "file:///srv/data", "/srv/data/mnt"),
        ("", "file:///mnt/data", "/mnt"),
        ("", "file:///mnt", "/mnt"),
        ("", "file:///", "/mnt"),
        ("", "file:///st", "/mnt"),
        ("state_dir=/mnt/state", "s3://bucket", "/mnt"),
        ("cache_dir=/mnt", "s3://bucket", "/mnt"),
        ("run_dir=/srv/run", "file:///srv", "/mnt"),
    ],
)
def test_a_mount_that_would_hold_itself_is_refused(
    options: str, spec: str, mountpoint: str
) -> None:
    with pytest.raises(ConfigError):
        parse(spec, Path(mountpoint), [options], host())


def test_store_options_speak_only_to_s3() -> None:
    assert config("endpoint=http://h:1,anonymous,credentials_file=/k").store_options() == {
        "endpoint": "http://h:1",
        "credentials_file": "/k",
        "addressing": "auto",
        "anonymous": True,
        "read_timeout_s": 30.0,
    }
    assert config(spec="file:///srv").store_options() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("a,,b=1,", ["a", "b=1"]),
        ('a="x,y",b', ["a=x,y", "b"]),
        (r"a=x\,y\\,b", [r"a=x,y" + "\\", "b"]),
    ],
)
def test_list_is_split(text: str, words: list[str]) -> None:
    assert split_list(text) == words


@given(st.lists(st.text(min_size=1)))
def test_quoted_words_survive_a_list(words: list[str]) -> None:
    assert split_list(",".join(map(quote_word, words))) == words


def test_words_given_parse_to_the_same_again() -> None:
    lists = ["ro,path_style,noatime,_netdev,cache_size=2G,log_file=/a\\,b"]
    once = config(*lists)
    assert config(*map(quote_word, once.options)) == once


def test_every_option_has_help_and_a_default_that_parses() -> None:
    names = [name for option in opt.TABLE for name in (option.name, *option.aliases)]
    assert len(names) == len(set(names))
    assert not set(names) & {*opt.KERNEL, *opt.IGNORED}
    for option in opt.TABLE:
        assert option.help
        assert (option.default is None) != (option.default_help == "")
        if option.default is not None:
            option.parse(option.default)


def test_flags_take_yes_and_no() -> None:
    for text, expected in (("allow_other=no", False), ("allow_other=1", True)):
        assert parse_options([text]).value(opt.ALLOW_OTHER) is expected


def test_azure_is_told_what_is_its_own() -> None:
    made = config("endpoint=http://localhost:1/acc,timeout=7", spec="az://acc/cont")
    assert made.store_options() == {"endpoint": "http://localhost:1/acc", "read_timeout_s": 7.0}
    assert "only for s3:// stores" in refusal("region=x", spec="az://acc/cont")
    assert "only for s3://, az://, gs:// and onedrive:// stores" in refusal(
        "endpoint=http://x", spec="/srv"
    )
