"""The record log keeps order and size, and a reader's cursor keeps its meaning."""

from __future__ import annotations

import os
import resource
from contextlib import closing, contextmanager

import pytest

from mlflow_istio.serving.record_log import InvalidCursorError, RecordLog

MAX_BYTES = 64 * 1024
PAGE = 1024 * 1024


@pytest.fixture
def log(tmp_path):
    with closing(opened(tmp_path)) as log:
        yield log


def opened(folder):
    log = RecordLog(folder, MAX_BYTES)
    log.open()
    return log


def record(number, size=1000):
    return b'{"n":%d,"pad":"%s"}' % (number, b"x" * size)


def read_all(log, cursor=None, limit=PAGE):
    lines = []
    while (page := log.read(cursor, limit)).lines:
        lines += page.lines
        cursor = page.cursor
    return lines, page.cursor


def bytes_on_disk(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.jsonl"))


@contextmanager
def files_no_larger_than(size):
    """A disk that is full, as far as this process can tell."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_records_are_read_in_the_order_of_writing(log):
    expected = [record(number) for number in range(50)]
    for line in expected:
        log.append(line)
    assert read_all(log)[0] == expected


@pytest.mark.parametrize("limit", [1, 1500, 10_000, PAGE])
def test_pages_of_any_size_give_every_record_once(log, limit):
    expected = [record(number) for number in range(50)]
    for line in expected:
        log.append(line)
    assert read_all(log, limit=limit)[0] == expected


def test_a_cursor_at_the_end_gives_what_is_written_later(log):
    log.append(record(1))
    _, cursor = read_all(log)
    log.append(record(2))
    assert log.read(cursor, PAGE).lines == (record(2),)


def test_the_log_never_passes_its_size_and_loses_the_oldest(log, tmp_path):
    written = [record(number) for number in range(300)]
    for line in written:
        log.append(line)
        assert bytes_on_disk(tmp_path) <= MAX_BYTES
    kept, _ = read_all(log)
    assert kept == written[-len(kept) :]
    # A segment goes as a whole, so between three quarters and all of the size is in use.
    assert bytes_on_disk(tmp_path) > MAX_BYTES * 0.7


def test_a_reader_is_told_what_it_lost(log):
    log.append(record(0))
    _, cursor = read_all(log)
    for number in range(1, 300):
        log.append(record(number))
    page = log.read(cursor, PAGE)
    rest, _ = read_all(log, cursor)
    missing = 300 - 1 - len(rest)
    assert missing > 0
    assert page.lost_bytes == sum(len(record(number)) + 1 for number in range(1, missing + 1))


def test_a_restart_goes_on_where_the_log_ended(tmp_path):
    with closing(opened(tmp_path)) as log:
        log.append(record(1))
        _, cursor = read_all(log)
    with closing(opened(tmp_path)) as log:
        log.append(record(2))
        assert read_all(log)[0] == [record(1), record(2)]
        assert log.read(cursor, PAGE).lines == (record(2),)


@pytest.mark.parametrize("torn", [b'{"n":', b"x" * 5000])
def test_a_record_cut_short_by_a_crash_is_gone_after_the_restart(tmp_path, torn):
    with closing(opened(tmp_path)) as log:
        log.append(record(1))
    (segment,) = tmp_path.rglob("*.jsonl")
    with segment.open("ab") as file:
        file.write(torn)
    with closing(opened(tmp_path)) as log:
        log.append(record(2))
        assert read_all(log)[0] == [record(1), record(2)]


def test_a_full_disk_costs_the_record_and_nothing_else(log, tmp_path):
    log.append(record(1))
    size = bytes_on_disk(tmp_path)
    with files_no_larger_than(size + 100), pytest.raises(OSError, match="File too large"):
        log.append(record(2))
    log.append(record(3, size=10))
    assert read_all(log)[0] == [record(1), record(3, size=10)]


def test_what_a_full_disk_cut_short_is_gone_after_a_restart(tmp_path):
    with closing(opened(tmp_path)) as log:
        log.append(record(1))
        with files_no_larger_than(bytes_on_disk(tmp_path) + 100), pytest.raises(OSError, match="File too large"):
            log.append(record(2))
    with closing(opened(tmp_path)) as log:
        log.append(record(3))
        assert read_all(log)[0] == [record(1), record(3)]


def test_a_folder_that_appears_later_is_used_then(tmp_path):
    blocked = tmp_path / "records"
    blocked.write_text("a file where the folder should be")
    log = RecordLog(blocked, MAX_BYTES)
    with pytest.raises(FileExistsError):
        log.append(record(1))
    assert log.read(None, PAGE).lines == ()
    blocked.unlink()
    with closing(log):
        log.append(record(2))
        assert read_all(log)[0] == [record(2)]


def test_a_record_that_is_too_long_is_refused(log):
    with pytest.raises(ValueError, match="over the limit"):
        log.append(b"x" * log.max_line_bytes)
    assert read_all(log)[0] == []


def test_servers_with_one_folder_keep_apart_and_the_next_one_takes_over(tmp_path):
    with closing(opened(tmp_path)) as first, closing(opened(tmp_path)) as second:
        first.append(record(1))
        second.append(record(2))
        assert read_all(first)[0] == [record(1)]
        assert read_all(second)[0] == [record(2)]
    with closing(opened(tmp_path)) as restarted:
        assert read_all(restarted)[0] == [record(1)]


@pytest.mark.parametrize("cursor", ["1", "x", "", "deadbeef", "deadbeef-", "deadbeef-1x"])
def test_a_cursor_of_the_wrong_form_is_refused(log, cursor):
    log.append(record(1))
    with pytest.raises(InvalidCursorError):
        log.read(cursor, PAGE)


@pytest.mark.parametrize("offset", [1, 5000])
def test_a_cursor_inside_a_record_or_beyond_the_end_is_refused(log, offset):
    log.append(record(1))
    log_id = log.read(None, PAGE).cursor.partition("-")[0]
    with pytest.raises(InvalidCursorError):
        log.read(f"{log_id}-{offset}", PAGE)


def test_a_cursor_of_a_log_that_is_gone_starts_anew_and_says_so(log):
    log.append(record(1))
    page = log.read("00000000-5", PAGE)
    assert page.lines == (record(1),)
    assert page.lost_bytes is None


def test_folders_and_files_are_for_our_user_alone(tmp_path):
    folder = tmp_path / "records"
    with closing(opened(folder)) as log:
        log.append(record(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert {modes.pop("records"), modes.pop("server-0")} == {0o700}
    assert set(modes.values()) == {0o600}


def test_a_folder_of_ours_that_others_may_read_is_closed_to_them(tmp_path):
    (tmp_path / "server-0").mkdir(mode=0o755)
    with closing(opened(tmp_path)):
        assert (tmp_path / "server-0").stat().st_mode & 0o777 == 0o700


def test_a_link_to_a_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "records").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="it is a link"):
        opened(tmp_path / "records")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_the_place_of_a_servers_folder_is_passed_over(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "server-0").symlink_to(tmp_path / "elsewhere")
    with closing(opened(tmp_path)) as log:
        log.append(record(1))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755
    assert bytes_on_disk(tmp_path / "server-1") > 0


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "server-0").mkdir(mode=0o700)
    (tmp_path / "server-0" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        opened(tmp_path)
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")
def test_another_users_folder_is_not_used(tmp_path):
    theirs = tmp_path / "records"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(PermissionError, match="another user .uid 12345."):
        opened(theirs)
    ours = tmp_path / "mine"
    (ours / "server-0").mkdir(parents=True)
    os.chown(ours / "server-0", 12345, 12345)
    with closing(opened(ours)) as log:
        log.append(record(1))
    assert list((ours / "server-0").iterdir()) == []
