"""The manual pages tell what the code does: every option, its default, every exit code."""

import re
import subprocess
from pathlib import Path

import click
import pytest

from csyncfs import fsck, preflight
from csyncfs import options as opt
from csyncfs.admin import cli as admin
from csyncfs.cli import cli
from tests.support import capability_table

MAN = Path(__file__).parents[2] / "man"
PAGES = ("mount.csyncfs.8", "csyncfs-fsck.8", "csyncfs-admin.1", "csyncfs-semantics.7")
ROOT = MAN.parent


def plain(page: str) -> str:
    """The page without roff's font changes and escapes."""
    text = (MAN / page).read_text()
    text = re.sub(r"^\.(?:BI|BR|IR|RB|B|I) ", "", text, flags=re.MULTILINE)
    text = re.sub(r'"|\\f[BIR]|\\&', "", text)
    return text.replace(r"\-", "-").replace(r"\e", "\\")


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^\.SH (.*)$", plain(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def paragraphs(page: str, *names: str) -> dict[str, str]:
    """First word (up to ``=``) of each tagged paragraph in some sections, and its text."""
    found: dict[str, str] = {}
    for name in names:
        for paragraph in re.split(r"^\.TP\n", sections(page)[name], flags=re.MULTILINE)[1:]:
            tag, _, text = paragraph.partition("\n")
            found[re.split(r"[= ]", tag)[0]] = text
    return found


OPTIONS = paragraphs(
    "mount.csyncfs.8", "STORE OPTIONS", "PLACES AND SPACE", "CHANGES", "ACCESS", "LOG"
)


def test_manual_has_exactly_the_options_there_are() -> None:
    assert sorted(OPTIONS) == sorted(option.name for option in opt.TABLE)


@pytest.mark.parametrize("option", opt.TABLE, ids=lambda option: option.name)
def test_manual_tells_default_and_other_names(option: opt.Option[object]) -> None:
    text = OPTIONS[option.name]
    for alias in option.aliases:
        assert alias in text
    told = re.search(r"^Default: (\S+)\.$", text, flags=re.MULTILINE)
    assert (told and told[1]) == option.default


def test_manual_names_the_options_for_the_kernel() -> None:
    words = set(re.findall(r"\w+", sections("mount.csyncfs.8")["OPTIONS OF MOUNT"]))
    assert set(opt.KERNEL) <= words


def test_manual_has_the_exit_codes_of_mount() -> None:
    codes = {preflight.USAGE, preflight.SYSTEM, preflight.INTERNAL}
    codes |= {0, preflight.INTERRUPTED, preflight.FAILED}
    assert set(map(int, paragraphs("mount.csyncfs.8", "EXIT STATUS"))) == codes


def test_manual_has_the_exit_codes_of_admin() -> None:
    codes = {0, admin.LEFT, admin.USAGE, admin.NO_MOUNT, admin.NO_ANSWER}
    assert set(map(int, paragraphs("csyncfs-admin.1", "EXIT STATUS"))) == codes


def test_manual_has_the_exit_codes_of_fsck() -> None:
    codes = {fsck.CLEAN, fsck.REPAIRED, fsck.LEFT, fsck.TROUBLE, fsck.USAGE}
    assert set(map(int, paragraphs("csyncfs-fsck.8", "EXIT STATUS"))) == codes


def test_manual_has_exactly_the_options_of_fsck() -> None:
    tags = re.findall(r"^\.TP\n(.*)$", sections("csyncfs-fsck.8")["OPTIONS"], flags=re.MULTILINE)
    told = {word for tag in tags for word in re.findall(r"--?[a-z][a-z-]*", tag)}
    there = {name for option in cli.commands["fsck"].params for name in option.opts}
    assert told == there - {"target"}


def commands(group: click.Group, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found.add(prefix + name)
    return found


def test_manual_has_every_command() -> None:
    text = sections("csyncfs-admin.1")["COMMANDS"]
    tags = [p.partition("\n")[0] for p in re.split(r"^\.TP\n", text, flags=re.MULTILINE)[1:]]
    assert {tag.partition("[")[0].strip() for tag in tags} == commands(admin.cli)
    synopsis = sections("mount.csyncfs.8")["SYNOPSIS"]
    for name in commands(cli):
        assert f"csyncfs {name}" in synopsis


def test_help_shows_every_option() -> None:
    text = click.Context(cli.commands["mount"]).get_help()
    for option in opt.TABLE:
        assert re.search(rf"^  {option.name}\b", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_page_renders_without_warnings(page: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(MAN / page)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("page", PAGES)
def test_page_keeps_to_ascii(page: str) -> None:
    assert (MAN / page).read_text().isascii()


# -- csyncfs-semantics(7) says nothing that no test shows ------------------------------------------


@pytest.mark.parametrize("place", capability_table.PLACES, ids=lambda place: place.path.name)
def test_the_table_of_stores_is_what_the_code_declares(place: capability_table.Place) -> None:
    assert place.path.read_text() == place.up_to_date(), "run make capabilities"


_EVIDENCE = re.compile(r"^\.\\\" (tests/\S+\.py)::(test_\w+)$")
_BREAK = re.compile(r"^\.(?:TP|PP|SH)\b")


def statements() -> list[tuple[str, list[tuple[str, str]]]]:
    """Each paragraph and each row of the table, and the tests named right behind it."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    told, tests, in_table = "", list[tuple[str, str]](), False
    lines = (MAN / "csyncfs-semantics.7").read_text().splitlines()
    first = lines.index(".SH DESCRIPTION")
    last = lines.index(".SH SEE ALSO")
    for line in lines[first : last + 1]:
        if evidence := _EVIDENCE.match(line):
            tests.append((evidence[1], evidence[2]))
            continue
        is_row = in_table and not line.startswith((".", r"\fB"))
        if _BREAK.match(line) or line in (".nf", ".fi") or is_row or tests:
            if told:
                found.append((told, tests))
            told, tests = "", []
        in_table = line == ".nf" or (in_table and line != ".fi")
        if line and not line.startswith((".SH", ".TP", ".PP", ".nf", ".fi", ".\\", r"\fB")):
            told += line + "\n"
    return found


def test_every_statement_names_a_test_that_shows_it() -> None:
    assert len(statements()) > 40
    assert [told for told, tests in statements() if not tests] == []


def test_the_tests_that_statements_name_exist() -> None:
    named = {test for _, tests in statements() for test in tests}
    sources = {path: (ROOT / path).read_text() for path, _ in named}
    missing = [
        (path, name)
        for path, name in sorted(named)
        if not re.search(rf"^(?:async )?def {name}\(", sources[path], flags=re.MULTILINE)
    ]
    assert missing == []


def test_manual_is_installed_and_removed_whole() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        section = page[-1]
        assert f"install -m 644 man/{page} $(MANDIR)/man{section}/" in makefile
        assert f"$(MANDIR)/man{section}/{page}" in makefile
