"""`lepjax ckpt` on a run that is kept in this folder's neighbour, so that nothing is trained."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from lepjax.cli.ckpt import DIFFERENT, run
from lepjax.core.errors import CONFIGURATION, DONE, guarded
from tests.damage import flip_a_bit
from tests.run.make_format_fixture import FOLDER


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "run")
    return tmp_path / "run"


def test_list_and_verify(copy, capsys):
    (copy / "checkpoints" / "2.damaged").mkdir()
    assert run(["list", str(copy)]) == DONE
    listed = capsys.readouterr().out
    assert "         4" in listed and "leaves" in listed and " 2.damaged  not used" in listed
    assert run(["verify", str(copy)]) == DONE
    assert capsys.readouterr().out.split() == ["4", "good"]


def test_verify_names_the_damaged_step_and_its_exit_code_says_so(copy, capsys):
    flip_a_bit(copy / "checkpoints" / "4")
    assert run(["verify", str(copy)]) == DIFFERENT
    out, err = capsys.readouterr()
    assert "4  DAMAGED params/" in out and "expected" in out and "1 damaged" in err


def test_diff_names_every_leaf_that_differs(copy, tmp_path, capsys):
    assert run(["diff", str(copy), str(copy / "checkpoints" / "4")]) == DONE
    assert capsys.readouterr().out == "equal, bit for bit\n"
    _other_state(copy / "checkpoints" / "4", tmp_path / "other" / "checkpoints")
    assert run(["diff", str(copy), str(tmp_path / "other")]) == DIFFERENT
    assert capsys.readouterr().out.splitlines() == [
        "leaf key is not in step 4",
        "leaf cursor is int32[], expected float32[]",
        "leaf params.ln_f.scale differs by at most 0.5",
    ]


def _other_state(folder, to):
    """The same step without its key, with a cursor of another type and one other weight."""
    import orbax.checkpoint as ocp

    from lepjax.core import digest
    from lepjax.run import manifest
    from lepjax.run.checkpoint import Checkpoints
    from lepjax.run.named import is_trained, layout

    old, new = Checkpoints(folder.parent), Checkpoints(to)
    flat = old.restore_named(4)
    del flat["key"]
    flat["cursor"] = flat["cursor"].astype("float32")
    flat["params.ln_f.scale"] = flat["params.ln_f.scale"].at[0].add(0.5)
    parts = {"params": {n: x for n, x in flat.items() if is_trained(n)}}
    parts["rest"] = {n: x for n, x in flat.items() if not is_trained(n)}
    items = {name: ocp.args.PyTreeSave(part) for name, part in parts.items()}
    new._orbax.save(to / "4", args=ocp.args.Composite(**items))
    new._orbax.wait_until_finished()
    told = {n: [*layout(flat)[n], digest.told(np.asarray(w))] for n, w in digest.digests(flat).items()}
    manifest.commit(to / "4", 4, told)
    old.close()
    new.close()


def test_export_writes_the_parameters_by_name(copy, tmp_path):
    assert run(["export", str(copy), str(tmp_path / "x.safetensors")]) == DONE
    arrays = load_file(tmp_path / "x.safetensors")
    assert arrays["params.wte.embedding"].shape == (256, 8) and "ema.wte.embedding" in arrays
    assert not any(name.startswith(("opt_state", "step")) for name in arrays)


MISTAKES = {
    "no action": (["mend", "x"], "ckpt: no action 'mend'. Known: diff, export, list, verify."),
    "arguments": (["diff", "x"], "ckpt diff: 1 arguments, expected 2. See lepjax ckpt --help."),
    "no run": (["list", "nowhere"], "nowhere: is no run directory (no checkpoints)"),
    "no step": (["export", "{run}/checkpoints/9", "x.safetensors"], "9: is no committed step. See lepjax ckpt list."),
    "no safetensors": (["export", "{run}", "x.pt"], "x.pt: is no .safetensors"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(copy, name, capsys):
    arguments, message = MISTAKES[name]
    assert guarded(lambda: run([a.replace("{run}", str(copy)) for a in arguments])) == CONFIGURATION
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.strip().endswith(message)
