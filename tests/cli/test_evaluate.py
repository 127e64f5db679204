"""`pctool eval`: what it scores, what it leaves behind, and what it refuses."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import typing
import unittest.mock
import zipfile

import numpy as np
import pytest
import torch
import typer

from pctool import files
from pctool.cli import evaluation_session
from pctool.cli.evaluate import evaluate
from pctool.cli.evaluation_sources import real_images
from pctool.core import checkpoint as checkpoints
from pctool.core.models import build_generator
from pctool.data import acquire, catalog
from pctool.errors import InputError, MissingError, PartialError, WriteError
from pctool.evaluation import reference
from pctool.evaluation.images import open_images
from pctool.evaluation.metrics_file import Metrics
from pctool.evaluation.samples_out import writer
from tests.data import small_cifar, small_encoded

FEW = ("--n-fake", "40", "--n-real", "60")
CLOTHES = catalog.load("fashion-mnist").images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with two checkpoints of small, untrained generators, and a folder of clothes."""
    root = tmp_path_factory.mktemp("eval")
    settings = {"arch": "cnn", "resolution": 32, "channels": 1, "width_g": 16, "variant": "authors"}
    config = json.dumps({"dataset": "fashion-mnist", "seed": 0, **settings})
    for step in (10, 20):
        torch.manual_seed(step)
        G, G_ema = (build_generator("cnn", 32, 1, 16, "authors").state_dict() for _ in range(2))
        path = root / "run" / "checkpoints" / f"{step:08d}.pt"
        checkpoints.write(path, {"step": step, "config": config, "G": G, "G_ema": G_ema})
    (root / "run" / "config.json").write_text(config)
    with writer(root / "clothes") as write:
        write(CLOTHES[:50])
    return root


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of what was made, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments):
    app = typer.Typer()
    app.command()(evaluate)
    app([str(argument) for argument in arguments], standalone_mode=False)


def logged(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def answer(capsys, *arguments):
    run(*arguments, "--json")
    return Metrics.model_validate_json(capsys.readouterr().out)


def test_a_run_is_scored_with_its_own_data(place, capsys):
    """The newest checkpoint's G_ema is scored against the run's data set, and metrics.jsonl gets the same answer."""
    found = answer(capsys, "run", *FEW)
    assert found.step == 20
    assert set(found.scores) == {f"{m}_fashion-cnn{s}" for m, s in (("fd", ""), ("kd", ""), ("is", ""))} | {
        "kd_fashion-cnn_std",
        "kd_fashion-cnn_se",
        "is_fashion-cnn_std",
    }
    recorded = found.protocol
    assert (recorded.name, recorded.n_fake, recorded.n_real) == ("custom", 40, 60)
    assert (recorded.network, recorded.bn, recorded.split) == ("G_ema", "running", "test")
    assert recorded.real_sha256 == catalog.DATASETS["fashion-mnist"].splits["test"].sha256
    assert [Metrics.model_validate_json(line) for line in logged(place / "run")] == [found]


def test_the_same_command_gives_the_same_scores(place, capsys):
    """Scores depend on the seed and on the network, and on nothing else; cached references change nothing."""
    first = answer(capsys, "run", *FEW).scores
    assert answer(capsys, "run", *FEW).scores == first
    for other in (("--seed", "1"), ("--network", "G"), ("--bn", "batch")):
        assert answer(capsys, "run", *FEW, *other).scores != first


def test_a_checkpoint_of_a_run_is_logged_there(place, capsys):
    """A checkpoint is scored as such; inside a run folder its answer goes to that run, elsewhere nowhere."""
    checkpoint = place / "run" / "checkpoints" / "00000010.pt"
    assert answer(capsys, checkpoint, *FEW).step == 10
    assert len(logged(place / "run")) == 1
    alone = shutil.copy(checkpoint, place / "alone.pt")
    assert answer(capsys, alone, *FEW).step == 10
    assert len(list(place.rglob("metrics.jsonl"))) == 1


def test_the_newest_run_is_the_default(place, capsys):
    """Without a source the newest run below ./runs is scored, and a note names it; without any, the error says so."""
    with pytest.raises(InputError, match=r"no run below ./runs"):
        run(*FEW)
    (place / "runs" / "study").mkdir(parents=True)
    for time, name in enumerate(("old", "study/new", "older")):
        shutil.copytree(place / "run", place / "runs" / name)
        os.utime(place / "runs" / name / "checkpoints", (5, time % 2))
    run(*FEW, "--metrics", "fid")
    assert "runs/study/new" in capsys.readouterr().err
    assert (place / "runs" / "study" / "new" / "metrics.jsonl").exists()


def test_real_clothes_are_nearer_than_untrained_samples(place, capsys):
    """Fifty real images, whole and named custom, beat an untrained generator by a wide margin."""
    real = answer(capsys, "clothes", "--against", "fashion-mnist", "--n-real", "500", "--metrics", "fid")
    assert (real.protocol.name, real.protocol.n_fake, real.protocol.network, real.step) == ("custom", 50, None, None)
    fake = answer(capsys, "run", "--n-fake", "50", "--n-real", "500", "--metrics", "fid")
    assert real.scores["fd_fashion-cnn"] < 0.5 * fake.scores["fd_fashion-cnn"]


def test_files_against_files(place, capsys):
    """A ZIP or .npz against a folder: the same images are at distance 0, and nothing needs a data set."""
    np.savez(place / "c.npz", CLOTHES[:50].transpose(0, 2, 3, 1))
    found = answer(capsys, "c.npz", "--against", "clothes", "--extractor", "fashion-cnn")
    assert found.scores["fd_fashion-cnn"] == pytest.approx(0, abs=1e-6)
    assert (found.protocol.n_real, found.protocol.split) == (50, None)


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_samples_out(place, capsys, name):
    """The samples that were scored are kept, and score the same when they are read back."""
    scores = answer(capsys, "run", *FEW, "--metrics", "fid", "--samples-out", name).scores
    assert len(open_images(place / name)) == 40
    again = answer(capsys, name, "--against", "fashion-mnist", "--n-real", "60", "--metrics", "fid").scores
    assert again["fd_fashion-cnn"] == pytest.approx(scores["fd_fashion-cnn"], rel=1e-6)


def test_fewer_files_than_there_are_are_a_random_choice(place, capsys):
    """--n-fake of a folder, which may be sorted by class, takes the fixed random subset that real images get too."""
    chosen = reference.subset(50, 20)
    assert chosen == sorted(set(chosen))
    assert max(chosen) > 40
    with writer(place / "chosen.zip") as write:
        write(CLOTHES[chosen])
    against = ("--against", "fashion-mnist", "--n-real", "60", "--metrics", "fid")
    assert answer(capsys, "clothes", "--n-fake", "20", *against).scores == answer(capsys, "chosen.zip", *against).scores


def test_a_place_that_cannot_be_written_to(place, capsys, monkeypatch):
    """Known beforehand, it is refused before anything is scored; met later, it costs neither answer nor log."""
    (place / "other.json").write_text("{}")
    monkeypatch.setattr(evaluation_session, "_scored", None)
    with pytest.raises(InputError, match=r"--out other.json exists and holds no scores"):
        run("run", *FEW, "--out", "other.json")
    for flag, file in (("--out", "a.json"), ("--stats-out", "a.npz"), ("--samples-out", "a")):
        with pytest.raises(WriteError, match="/proc"):
            run("run", *FEW, flag, f"/proc/1/{file}")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setattr(files, "write_new", fails := unittest.mock.Mock(side_effect=WriteError("full")))
    with pytest.raises(WriteError, match="full"):
        run("run", *FEW, "--metrics", "fid", "--out", "a.json", "--stats-out", "s.npz", "--json")
    fails.assert_called_once()
    fails.side_effect = None
    monkeypatch.setattr(evaluation_session, "_show", unittest.mock.Mock(side_effect=OSError("no stdout")))
    with pytest.raises(OSError, match="no stdout"):
        run("run", *FEW, "--metrics", "fid", "--out", "b.json")
    assert fails.call_count == 2
    assert len(logged(place / "run")) == 2
    assert Metrics.model_validate_json(capsys.readouterr().out) == Metrics.model_validate_json(logged(place / "run")[0])
    assert (place / "s.npz").exists()


def test_a_run_that_streamed_is_scored_so(place):
    """What a run's --cache-limit kept from being decoded into the cache, its evaluation does not decode there."""
    clothes = str(place / "clothes")
    streamed, _ = real_images(clothes, None, None, {"resolution": 32, "crop": "centre", "cache_limit": 0.0})
    cached, _ = real_images(clothes, None, None, {"resolution": 32, "crop": "centre", "cache_limit": 1.0})
    assert len(streamed) == len(cached) == 50
    assert len(list((place / "cache" / "images").glob("*.npy"))) == 1


def test_table_and_out(place, capsys):
    """Without --json a short table has scores and protocol; --out holds the JSON and is not overwritten unasked."""
    run("run", *FEW, "--out", "a.json")
    text = capsys.readouterr().out
    for part in (
        "fd_fashion-cnn",
        "kd_fashion-cnn",
        "±",
        "over subsets",
        "protocol",
        "custom",
        "n_fake",
        "40",
        "real_sha256",
    ):
        assert part in text
    before = (place / "a.json").read_text()
    Metrics.model_validate_json(before)
    run("run", *FEW, "--out", "a.json")  # the same content again is a success
    with pytest.raises(InputError, match="--force"):
        run("run", *FEW, "--seed", "1", "--out", "a.json")
    assert (place / "a.json").read_text() == before
    run("run", *FEW, "--seed", "1", "--out", "a.json", "--force")
    assert (place / "a.json").read_text() != before


def test_named_protocols(place, capsys, monkeypatch):
    """A run's default counts are its protocol's; any other count, or a split by name, makes it custom."""
    from pctool.cli import evaluation_plan
    from pctool.evaluation.protocols import NamedProtocol

    monkeypatch.setitem(evaluation_plan.PROTOCOLS, "fashion-10k", NamedProtocol(30, 70))
    assert answer(capsys, "run", "--metrics", "fid").protocol.name == "fashion-10k"
    assert answer(capsys, "run", "--metrics", "fid", "--n-fake", "30").protocol.name == "fashion-10k"
    assert answer(capsys, "run", "--metrics", "fid", "--n-real", "71").protocol.name == "custom"
    assert answer(capsys, "run", "--metrics", "fid", "--split", "test").protocol.name == "custom"
    # A folder is no split of a data set, and clean-50k no protocol of fashion-cnn's.
    monkeypatch.setitem(evaluation_plan.PROTOCOLS, "clean-50k", NamedProtocol(20, None))
    against = ("--against", "clothes", "--extractor", "fashion-cnn")
    found = answer(capsys, "run", "--metrics", "fid", "--protocol", "clean-50k", *against).protocol
    assert (found.name, found.n_fake, found.n_real) == ("custom", 20, 50)  # all there are
    found = answer(capsys, "run", "--metrics", "fid", "--protocol", "clean-50k", "--extractor", "fashion-cnn").protocol
    assert found.name == "custom"


def bad_inputs(place):
    (place / "text.pt").write_text("no checkpoint")
    (place / "empty").mkdir()
    shutil.copytree(place / "clothes", place / "mixed")
    with writer(place / "one.zip") as write:
        write(CLOTHES[:1, :, :16, :16])
    with zipfile.ZipFile(place / "one.zip") as archive:
        (place / "mixed" / "z.png").write_bytes(archive.read("00000000.png"))
    with writer(place / "colour") as write:
        write(CLOTHES[:9].repeat(3, 1))
    against = ("--against", "fashion-mnist")
    return [
        (("text.pt",), "is damaged or no checkpoint"),
        (("absent.pt",), "absent.pt is not there; name a run folder, a checkpoint, a folder or ZIP of images, or an"),
        (("empty", *against), "holds no images"),
        (("mixed", *against, "--n-real", "9"), "takes 32x32 images, these are 16x16 grey"),
        (("colour", *against, "--n-real", "9"), "takes grey images"),
        (("clothes",), "--against"),
        (("clothes", "--bn", "batch"), "--bn is for runs and checkpoints"),  # before the folder is read
        (("empty",), "holds no images"),  # before anything is fetched for it, and before --against is missed
        (("clothes", "--against", "empty", "--extractor", "inception", "--offline"), "holds no images"),
        (("clothes", "--against", "fashion-mnst"), "did you mean fashion-mnist"),
        (
            ("run", "--against", "no/where"),
            "--against no/where is neither a data set nor there; give .* or a folder, ZIP",
        ),
        (("clothes", *against, "--n-fake", "51"), "more than the 50"),
        (("run", "--n-fake", "9", "--n-real", "10001"), "there are 10,000"),
        (("clothes", "--against", "clothes", "--extractor", "fashion-cnn", "--split", "test"), "--split"),
        (("clothes", *against, "--network", "G"), "finished images"),
        (("clothes", *against, "--samples-out", "s"), "finished images"),
        (("clothes", *against, "--protocol", "clean-50k"), "--protocol"),
        (("run", "--samples-out", "clothes"), "exists"),
        (("run", "--extractor", "fashioncnn"), "did you mean fashion-cnn"),
        (("run", "--metrics", "fid,prd"), "fid, kid, is, pr"),
        (("run", "--metrics", ","), "fid, kid, is"),
        (("run", "--metrics", "fdi"), "did you mean fid"),
        (("run", "--extractor", "inception", "--weights", "absent.pth"), "--weights absent.pth is not there"),
    ]


def test_bad_input_is_one_line_and_leaves_nothing(place):
    """Each is an InputError of one line that says what was wrong; no file appears and none changes."""
    cases = bad_inputs(place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for arguments, match in cases:
        with pytest.raises(InputError, match=match) as error:
            run(*arguments)
        assert "\n" not in str(error.value), arguments
    after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert {path for path in set(after) - set(before) if "cache" not in path.parts} == set()
    assert all(after[path] == content for path, content in before.items())


def test_weights_that_are_not_here(place):
    """Inception without its file, and data that is not here, are MissingErrors that say what to do."""
    with pytest.raises(MissingError, match="pctool data fetch inception"):
        run("run", "--extractor", "inception", "--offline")
    with pytest.raises(MissingError, match="pctool data"):
        run("run", "--against", "cifar10", "--data-dir", place / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [(("--extractor", "fashion-cm"), "unknown extractor 'fashion-cm'"), (("--against", "no/where"), "no/where is nei")],
)
def test_what_is_misspelt_is_said_before_images_are_looked_at(place, monkeypatch, wrong, match):
    """An extractor, or what to compare with: found before minutes of reading."""
    looked = []
    monkeypatch.setattr("pctool.cli.evaluation_sources.open_images", lambda *a, **k: looked.append(a))
    with pytest.raises(InputError, match=match):
        run("clothes", "--against", "clothes", *wrong)
    assert not looked


def test_weights_that_are_missing_are_named_before_images_are_looked_at(place, monkeypatch):
    """The scored images or the real ones: reading them may take minutes."""
    looked = []
    monkeypatch.setattr("pctool.cli.evaluation_sources.open_images", lambda *a, **k: looked.append(a))
    for source in ("clothes", "run"):
        with pytest.raises(MissingError, match="pctool data fetch inception"):
            run(source, "--against", "clothes", "--extractor", "inception", "--offline")
    assert not looked


def test_cuda_where_there_is_none(place, monkeypatch):
    """--device cuda on a machine without one is a MissingError (exit code 4), as in train."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingError, match="--device cpu"):
        run("run", "--device", "cuda")


def test_help_is_light():
    """The command's module, its --help and a misspelt metric import neither torch nor numpy nor matplotlib."""
    code = (
        "import sys, typer; from pctool.cli.evaluate import evaluate; app = typer.Typer(); app.command()(evaluate)\n"
        "from pctool.errors import InputError\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "try: evaluate(source=None, metrics='fdi')\n"
        "except InputError: print('refused')\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'cvxpy', 'pydantic') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Example: pctool eval" in shown
    assert shown.splitlines()[-2:] == ["refused", "[]"]


def test_repeats_are_the_mean_of_other_z(place, capsys):
    """--repeats 3 scores with seeds 5, 6 and 7: means, deviations, and each as it is alone."""
    found = answer(capsys, "run", *FEW, "--metrics", "fid", "--seed", "5", "--repeats", "3")
    alone = [answer(capsys, "run", *FEW, "--metrics", "fid", "--seed", str(seed)).scores for seed in (5, 6, 7)]
    assert found.repeats.seeds == [5, 6, 7]
    assert found.repeats.scores == alone
    assert found.scores["fd_fashion-cnn"] == pytest.approx(np.mean([scores["fd_fashion-cnn"] for scores in alone]))
    run("run", *FEW, "--metrics", "fid", "--repeats", "2")
    assert "over 2 repeats" in capsys.readouterr().out


def test_statistics_are_kept_and_scored_against(place, capsys):
    """--stats-out keeps the real images' moments; against that file the distance is the same without the images."""
    first = answer(capsys, "run", *FEW, "--metrics", "fid", "--stats-out", "s.npz")
    against = ("--n-fake", "40", "--against", "s.npz", *FASHION)
    with pytest.raises(
        PartialError, match=r"left out: kid: s.npz holds moments and no features; the scores are of the"
    ):
        run("run", *against, "--metrics", "fid,kid", "--json")
    again = Metrics.model_validate_json(capsys.readouterr().out)
    with pytest.raises(PartialError):  # as named as any other list
        run("run", *against, "--metrics", "fid,kid,is")
    capsys.readouterr()
    assert again.scores == pytest.approx(first.scores, rel=1e-9)
    assert (again.protocol.n_real, again.protocol.real_sha256) == (60, first.protocol.real_sha256)
    assert again.protocol.skipped == ["kid: s.npz holds moments and no features"]
    assert answer(capsys, "run", *against).protocol.skipped == again.protocol.skipped  # of the default list, a note
    with pytest.raises(
        InputError, match=r"nothing that --metrics names can be computed here: kid: s.npz holds .*; pr:"
    ):
        run("run", *against, "--metrics", "kid,pr")
    with pytest.raises(InputError, match=r"--stats-out is for images"):
        run("run", *FASHION, "--against", "s.npz", "--stats-out", "t.npz")
    with pytest.raises(InputError, match=r"--stats-out s.npz exists"):
        run("run", *FEW, "--stats-out", "s.npz")


FASHION = ("--extractor", "fashion-cnn")


def test_files_with_broken_grey_and_mixed_images(place, capsys):
    """What is skipped or changed in a folder is counted in the answer, noted on stderr, and ends in exit code 6."""
    (place / "clothes" / "zz.png").write_text("text")
    with pytest.raises(PartialError, match="left out: 1 of 51 files in clothes"):
        run("clothes", "--against", "fashion-mnist", "--n-real", "60", "--json")
    shown = capsys.readouterr()
    found = Metrics.model_validate_json(shown.out)
    assert found.protocol.n_fake == 50
    assert found.protocol.skipped[0].startswith("1 of 51 files in clothes: the first, zz.png, is not a readable image")
    assert "skipped 1 of 51 files" in shown.err
    assert "images/s" in shown.err


def test_an_untrained_average_is_said_to_be_one(place, capsys):
    """At step 0 all of G_ema is its initial noise, and a note says so; of G nothing is said."""
    made = checkpoints.read(place / "run" / "checkpoints" / "00000010.pt")
    checkpoints.write(place / "start.pt", {**made, "step": 0})
    assert "100% of G_ema at step 0 is its initial noise" in answer(capsys, "start.pt", *FEW).notes[0]
    for arguments in (("start.pt", "--network", "G"), ("run",)):
        assert not any("noise" in remark for remark in answer(capsys, *arguments, *FEW).notes)


def test_more_samples_for_the_inception_score_alone(place, capsys, monkeypatch):
    """Where a protocol has more samples for the inception score they come, unless the weights give no probabilities."""
    from pctool.cli import evaluation_plan
    from pctool.evaluation.protocols import NamedProtocol

    monkeypatch.setitem(evaluation_plan.PROTOCOLS, "fashion-10k", NamedProtocol(30, 70, n_is=50))
    found = answer(capsys, "run")
    assert (found.protocol.name, found.protocol.n_fake, found.protocol.n_is) == ("fashion-10k", 30, 50)
    load = evaluation_session.features.load

    def without_probabilities(*arguments):
        extractor = load(*arguments)
        network = extractor.network
        return dataclasses.replace(extractor, has_probabilities=False, network=lambda x: (network(x)[0], None))

    monkeypatch.setattr(evaluation_session.features, "load", without_probabilities)
    lacking = answer(capsys, "run")
    assert lacking.protocol.n_is is None
    assert lacking.scores == {key: value for key, value in found.scores.items() if not key.startswith("is_")}


def planned(*, dataset="cifar10", extractor="inception", **flags):
    """The plan of a run with some flags given."""
    from pctool.cli.evaluation_plan import Request, of_run

    empty = dict.fromkeys(Request.__dataclass_fields__) | {"seed": 0, "repeats": 1, "metrics": ("fid", "is")}
    return of_run(Request(**empty | flags), extractor, dataset)


@pytest.mark.parametrize(
    ("name", "n_fake", "n_real", "n_is", "split", "resizer", "network", "bn"),
    [
        ("clean-50k", 50_000, None, None, None, "clean", "G_ema", "running"),
        ("legacy-50k", 50_000, None, None, None, "legacy", "G_ema", "running"),
        ("paper", 10_000, 10_000, 50_000, "test", "legacy", "G", "batch"),
        ("sngan", 5_000, 10_000, 50_000, None, "legacy", "G", "running"),
    ],
)
def test_what_a_protocol_means(name, n_fake, n_real, n_is, split, resizer, network, bn):
    """Each name stands for counts, split, resizer, network and batch norm as docs/eval.md has them."""
    plan = planned(protocol=name)
    assert (plan.name, plan.n_fake, plan.n_real, plan.n_is) == (name, n_fake, n_real, n_is)
    assert (plan.split, plan.resizers, plan.network, plan.bn) == (split, (resizer,), network, bn)
    assert plan.batch_size == 100


def test_the_flag_allows_every_protocol():
    """--protocol takes the names that there are, and the resizers are those of the plan."""
    from pctool.evaluation.protocols import PROTOCOLS

    hints = typing.get_type_hints(evaluate)
    [names] = [typing.get_args(part) for part in typing.get_args(hints["protocol"]) if part is not type(None)]
    assert set(names) == set(PROTOCOLS)


@pytest.mark.parametrize(
    "flags",
    [
        {"n_fake": 9_999},
        {"n_real": 9},
        {"split": "train"},
        {"network": "G_ema"},
        {"bn": "running"},
        {"batch_size": 50},
        {"resizer": "clean"},
        {"resizer": "both"},
        {"extractor": "mobilenet_v2"},
    ],
)
def test_whatever_departs_from_a_protocol_is_custom(flags):
    """Any other count, split, network, batch, resizer or extractor takes the protocol's name away."""
    assert planned(protocol="paper", **flags).name == "custom"


def test_what_keeps_a_protocol_s_name():
    """Saying what the protocol says anyway, both resizers beside the clean one, or another batch without --bn batch."""
    assert planned(protocol="paper", n_fake=10_000, network="G", bn="batch", batch_size=100).name == "paper"
    assert planned(resizer="both").name == "clean-50k"
    assert planned(batch_size=7).name == "clean-50k"
    assert planned(protocol="paper", n_fake=20).n_is is None


def test_offline_and_fetch(place, monkeypatch, capsys):
    """--offline asks nobody; else the weights are fetched once into the cache, and a wrong hash is refused."""
    from pctool.cli.main import run as pctool
    from pctool.evaluation.weights_files import WeightsFile
    from tests.data.server import Behaviour, serve

    behaviour = Behaviour(b"no network")
    with serve(behaviour) as url:
        pinned = hashlib.sha256(b"no network").hexdigest()
        for sha256 in ("0" * 64, pinned):
            file = WeightsFile(url, sha256, 10)
            for module in ("cli.weights", "evaluation.inception"):
                monkeypatch.setattr(f"pctool.{module}.INCEPTION", file)
            assert pctool(["eval", "run", "--extractor", "inception", "--offline"]) == 4
            assert "'pctool data fetch inception', or name the file by --weights FILE" in capsys.readouterr().err
            assert len(behaviour.asked) == (0 if sha256 != pinned else 1)
            assert pctool(["eval", "run", "--extractor", "inception"]) == 2
            assert ("other bytes" if sha256 != pinned else "holds no weights") in capsys.readouterr().err
        assert pctool(["data", "fetch", "inception", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["path"]) == (
        "already here",
        str(place / "cache" / "weights" / "cifar-10-binary.tar.gz"),
    )


def test_a_run_is_scored_against_the_images_it_was_trained_on(monkeypatch, tmp_path):
    """Split, resolution and crop are the run's, not the data set's defaults; a split that is asked for wins."""
    from pctool.cli.evaluation_sources import real_images

    files = small_encoded.stl_files(small_encoded.stl_images())
    small_encoded.install_stl(monkeypatch, files)
    acquire.import_files("stl10", small_cifar.write_folder(tmp_path / "stl10_binary", files))
    settings = {"dataset": "stl10", "split": "train", "resolution": 64, "crop": "resize"}
    real, split = real_images("stl10", None, None, settings)
    trained_on = catalog.load("stl10", "train", resolution=64)
    assert (split, real.sha256, len(real)) == ("train", trained_on.sha256, 3)
    other, split = real_images("stl10", "test", None, settings)
    assert (split, len(other), tuple(other.shapes)) == ("test", 2, ((3, 64, 64),))


def test_images_of_a_run_that_are_elsewhere_now(place):
    """The line says whose they are, and what brings them."""
    with pytest.raises(InputError, match=r"the run's images were at pics, which is not there from here; add --against"):
        real_images("pics", None, None, {"resolution": 32})
