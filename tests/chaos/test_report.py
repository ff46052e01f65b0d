"""What the harness concludes from what it sees, without starting anything."""

import json

from lepjax.chaos import damage, points, watch
from lepjax.chaos.oracle import Oracle
from lepjax.chaos.report import Outcome, Report, Skipped
from lepjax.chaos.trial import Line, committed, lines

ORACLE = Oracle({1: "0x1.8p+0", 2: "0x1.4p+0", 3: "0x1.2p+0"}, 1.0, 1.0, {})
GOOD = [Line(1, "0x1.8p+0", 0.0), Line(2, "0x1.4p+0", 0.0), Line(3, "0x1.2p+0", 0.0)]


def test_the_oracle_sees_what_differs():
    assert ORACLE.incomplete(GOOD) == ""
    assert "wrong loss: step 2" in ORACLE.differs([GOOD[0], Line(2, "0x1.4000000000001p+0", 0.0)])
    assert "step 2 was never logged" in ORACLE.incomplete([GOOD[0], GOOD[2]])
    assert "step 2 was logged twice" in ORACLE.incomplete([*GOOD, GOOD[1]])
    assert "no such step" in ORACLE.differs([Line(4, "0x1p+0", 0.0)])


def test_lines_of_a_run_that_was_killed(tmp_path):
    told = [{"step": 1, "time": 5.5, "train_loss": 1.5}, {"step": 1, "dev_loss": 2.0}, {"step": 2, "train_loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told) + '{"step": 3, "tra')
    assert lines(tmp_path) == [Line(1, (1.5).hex(), 5.5), Line(2, "not finite", 0.0)]


def test_the_parts_of_a_save(tmp_path):
    seen = []

    def look():
        seen.append(watch.phase(tmp_path))

    look()
    item = tmp_path / "20.orbax-checkpoint-tmp" / "params.orbax-checkpoint-tmp"
    item.mkdir(parents=True)
    look()
    (item / "data").write_text("")
    look()
    item.rename(item.with_name("params"))
    look()
    item.parent.rename(tmp_path / "20")
    look()
    (tmp_path / "20" / "meta.json").write_text("")
    look()
    (tmp_path / "20" / ".manifest.json.tmp").write_text("")
    look()
    (tmp_path / "20" / ".manifest.json.tmp").rename(tmp_path / "20" / "manifest.json")
    look()
    (tmp_path / "10").mkdir()  # an older one that has lost its manifest
    look()
    assert seen == [watch.IDLE, *watch.PHASES[:-1], watch.IDLE, "pruning"]
    assert watch.phase(tmp_path, watch.present(tmp_path)) == watch.IDLE  # debris that was there before is no save
    assert committed(tmp_path.parent) == []


def test_a_call_of_strace_is_named_without_steps_and_digests():
    line = '17 rename("/r/checkpoints/20/.manifest.json.tmp", "/r/checkpoints/20/manifest.json") = 0'
    assert points._call(line) == "rename /STEP/.manifest.json.tmp -> /STEP/manifest.json"
    line = "17 fsync(28</r/checkpoints/20.orbax-checkpoint-tmp/rest/d/0123456789abcdef0123> <unfinished ...>"
    assert points._call(line) == "fsync /STEP.orbax-checkpoint-tmp/rest/d/*"
    assert points._call('17 mkdir("/r/checkpoints", 0777) = -1 EEXIST') == "mkdir /"
    assert points._call('17 unlinkat(7</r/checkpoints/20/rest>, "d", AT_REMOVEDIR) = 0') == "unlinkat /STEP/rest -> d"
    assert points._call('17 mkdir("/home/cache", 0777) = 0') == ""


def test_a_damage_changes_one_file(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(8)))
    other = tmp_path / "linked"
    other.hardlink_to(tmp_path / "file")
    damage.Damage("flip", "file", 11).apply(tmp_path)
    assert (tmp_path / "file").read_bytes() == bytes([0, 1 ^ 8, 2, 3, 4, 5, 6, 7])
    damage.Damage("truncation", "file", 3).apply(tmp_path)
    assert (tmp_path / "file").read_bytes() == bytes([0, 1 ^ 8, 2])
    damage.Damage("deletion", "file").apply(tmp_path)
    assert not (tmp_path / "file").exists()
    assert other.read_bytes() == bytes(range(8))


def test_a_report_states_what_it_bounds(tmp_path):
    outcomes = tuple(Outcome("kill", "in a save: arrays") for _ in range(60))
    report = Report("exp.py", outcomes, (Skipped("points", "strace is not installed"),), {"kills": 3.0})
    report.write(tmp_path)
    told = json.loads((tmp_path / "chaos.json").read_text())
    assert told["bad"] == 0
    assert told["kinds"]["kill"]["hit"] == {"in a save: arrays": 60}
    assert told["kinds"]["kill"]["bound"] == "less than 5.0% per fault at 95 %"
    assert "skipped: strace is not installed" in (tmp_path / "chaos.txt").read_text()
    broken = Report("exp.py", (*outcomes, Outcome("flip", "params", "wrong loss: step 3")), (), {})
    assert "bad          flip, params: wrong loss: step 3" in broken.to_text()
    assert broken.to_text().endswith("bad = 1 of 61\n")
