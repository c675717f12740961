"""What trackers hold is what the run wrote: read back with the libraries, offline, on tiny runs."""

import json
import shutil
import struct
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from small_runs import SMALL, TIMES, metrics, snapshot, train

from passk.config.commands import EvaluateConfig
from passk.config.rules import check_tracker
from passk.config.schema import TrackerConfig
from passk.errors import UserError
from passk.runs import trackers
from passk.runs.labels import config_differences, run_labels
from passk.runs.ledger import FOLDER
from passk.runs.reader import load_run
from passk.runs.trackers import place_among_runs, scalars

NAMES = ("tensorboard", "wandb", "trackio", "mlflow")
STEPS = 3
FILES = ("rollout.save_every=0", "eval.num_resamples=2", "train.save_every=2", "train.keep_last=9")
LENGTH = (f"train.num_steps={STEPS}", "eval.every=2", "diagnostics.every=2", *FILES)
QUICK = ("diagnostics.every=0", "rollout.save_every=0", "eval.num_resamples=2")


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory):
    """trackio reads where it writes when it is imported, which no other test does."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tracked")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def tracked(own_folders):
    """A run for each tracker: killed after its end, when it had one checkpoint less, and resumed.

    So step 2 was trained twice, and evaluated twice as step 3 was.
    """
    runs = {}
    for name in NAMES:
        run = own_folders / name
        words = ("regime=hybrid", *LENGTH, f"tracker={name}")
        assert train(run, *words) == 0
        shutil.rmtree(run / "checkpoints" / f"step-{STEPS:06d}")
        assert train(run, *words, "resume=true") == 0
        runs[name] = run
    return runs


def told(run: Path) -> dict[tuple[str, int], float]:
    """The numbers of `metrics.jsonl` and `eval/table.csv`, by name and step."""
    numbers = {}
    for line in metrics(run):
        reasons = {f"reasons/{name}": count for name, count in line.pop("reasons").items()}
        step = line.pop("step")
        for name, value in (line | reasons).items():
            if value is not None:
                numbers[name, step] = value
    for row in load_run(run).evals.to_dict("records"):
        numbers[f"eval/pass@{row['k']}", row["step"]] = row["value"]
    return numbers


def read_tensorboard(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]


def mlflow_run(run: Path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=json.loads((run / "manifest.json").read_text())["tracker"])
    return client, client.get_run(json.loads((run / "tracker.json").read_text())["mlflow"]["id"])


def read_mlflow(run: Path):
    client, found = mlflow_run(run)
    return [
        (name.replace("_at_", "@"), metric.step, metric.value)
        for name in found.data.metrics
        for metric in client.get_metric_history(found.info.run_id, name)
    ]


def read_trackio(run: Path):
    from trackio.sqlite_storage import SQLiteStorage

    id = json.loads((run / "tracker.json").read_text())["trackio"]["id"]
    rows = SQLiteStorage.get_logs("passk", run.name, run_id=id)
    return [
        (name, row["step"], value)
        for row in rows
        for name, value in row.items()
        if name not in ("step", "timestamp")
    ]


def wandb_records(file: Path):
    """The records of an offline run: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:  # the rest of a block of 32 KiB is empty
            at += 32768 - at % 32768
            continue
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768


def wandb_files(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))


def read_wandb(run: Path):
    found = []
    for record in (r for file in wandb_files(run) for r in wandb_records(file)):
        if record.HasField("history"):
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = row["_step"]
            found += [(name, step, value) for name, value in row.items() if name[0] != "_"]
    return found


READ = dict(zip(NAMES, (read_tensorboard, read_wandb, read_trackio, read_mlflow), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_holds_what_the_run_wrote_each_step_once(tracked, name):
    run = tracked[name]
    held, expected = READ[name](run), told(run)
    assert Counter((n, step) for n, step, _ in held) == Counter(expected.keys())
    assert {"loss", "alignment", "reasons/wrong", "eval/pass@2"} <= {n for n, _, _ in held}
    for metric, step, value in held:
        if metric not in TIMES:  # of a step trained twice they are those of the first time
            assert value == pytest.approx(expected[metric, step], rel=1e-5), (metric, step)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["tracker"] and "tracker_failure" not in manifest


def test_tensorboard_has_settings_facts_and_the_status(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(tracked["tensorboard"] / "tensorboard"))
    events.Reload()
    raw = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(raw).session_start_info.hparams
    assert settings["regime.k"].number_value == 2
    assert settings["regime.name"].string_value == "hybrid"
    texts = {tag: events.Tensors(tag)[-1].tensor_proto for tag in events.Tags()["tensors"]}
    assert texts["status/text_summary"].string_val[0] == b"finished"
    assert b'"seed": "0"' in texts["facts/text_summary"].string_val[0]


def test_mlflow_has_settings_facts_and_the_status(tracked):
    _, found = mlflow_run(tracked["mlflow"])
    assert found.info.status == "FINISHED" and found.info.run_name == "mlflow"
    assert found.data.params["regime.k"] == "2"
    assert found.data.params["eval.ks"] == "[1, 2]"
    assert found.data.tags["command"] == "train" and "versions.torch" in found.data.tags
    assert "status" not in found.data.tags  # of a manifest that was written at the start


def test_trackio_has_settings_and_facts(tracked):
    from trackio.sqlite_storage import SQLiteStorage

    id = json.loads((tracked["trackio"] / "tracker.json").read_text())["trackio"]["id"]
    config = SQLiteStorage.get_run_config("passk", "trackio", run_id=id)
    assert config["regime"]["k"] == 2 and config["manifest"]["command"] == "train"


def test_wandb_has_settings_facts_and_the_status_and_one_id(tracked):
    files = wandb_files(tracked["wandb"])
    assert len(files) == 2  # a folder for each session, of one run
    for file in files:
        records = list(wandb_records(file))
        (run,) = (r.run for r in records if r.HasField("run"))
        assert (
            run.run_id == json.loads((file.parents[2] / "tracker.json").read_text())["wandb"]["id"]
        )
        assert (run.project, run.display_name, run.run_group) == ("passk", "wandb", "")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["regime"]["k"] == 2 and config["manifest"]["command"] == "train"
        assert [r.exit.exit_code for r in records if r.HasField("exit")] == [0]
        summary = {i.key: i.value_json for r in records for i in r.summary.update}
        assert summary["status"] == '"finished"'


def test_runs_differ_by_what_they_did_not_by_who_tracked_them(tracked):
    records = [load_run(tracked[name]) for name in ("tensorboard", "mlflow")]
    assert records[0].setting("tracker.name") != records[1].setting("tracker.name")
    assert config_differences(records).empty
    assert run_labels(records) == ["hybrid", "hybrid"]


def test_a_resumed_run_may_have_another_tracker_or_none(tracked, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tracked["tensorboard"], run)
    words = ("regime=hybrid", *LENGTH, "resume=true")
    before = snapshot(run / "tensorboard")
    assert train(run, *words) == 0
    assert snapshot(run / "tensorboard") == before
    assert "tracker" not in json.loads((run / "manifest.json").read_text())


def test_mlflow_s_run_goes_on_where_it_is(passk, tmp_path, monkeypatch):
    """From another folder, where no ./mlruns has it."""
    run = tmp_path / "run"
    words = (*SMALL, *QUICK, "eval.every=0", "train.save_every=1", "train.num_steps=2")
    words += ("tracker=mlflow", f"hydra.run.dir={run}")
    assert passk("train", *words).code == 0
    shutil.rmtree(run / "checkpoints" / "step-000002")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    more = passk("train", *words, "resume=true")
    assert (more.code, more.err) == (0, "")
    assert not (tmp_path / "elsewhere" / "mlruns").exists()
    place = json.loads((run / "tracker.json").read_text())["mlflow"]["place"]
    assert place == (tmp_path / "mlruns").as_uri()


def test_measuring_a_tracked_run_needs_no_tracker(tracked):
    from passk.cli.resume import measured_policy

    run = tracked["wandb"]
    assert load_run(run).setting("tracker.name") == "wandb"
    measured, _, step = measured_policy(EvaluateConfig(run=str(run)), [])
    assert (measured.tracker.name, step) == ("none", STEPS)


def test_the_cells_of_a_sweep_are_one_group(passk, tmp_path):
    (tmp_path / "sweep" / FOLDER).mkdir(parents=True)  # as where the ledger of a sweep is
    words = ("train.num_steps=1", "eval.every=0", "tracker=mlflow", "tracker.dir=store")
    done = passk("train", *SMALL, *QUICK, *words, "hydra.run.dir=sweep/cell")
    assert done.code == 0, done.err
    _, found = mlflow_run(tmp_path / "sweep" / "cell")
    assert (found.info.run_name, found.data.tags["group"]) == ("cell", "sweep")


def test_runs_of_a_reproduction_are_one_group(passk, tmp_path):
    words = ("train.num_steps=1", "sft_steps=1", "regimes=[pass1]", "eval.every=0", *QUICK)
    store = ("tracker=mlflow", "tracker.dir=store", "hydra.run.dir=main")
    done = passk("reproduce", *SMALL, *words, *store)
    assert done.code == 0, done.err
    found = [mlflow_run(tmp_path / "main" / "seed-0" / name)[1] for name in ("sft", "pass1")]
    assert [run.info.run_name for run in found] == ["seed-0/sft", "seed-0/pass1"]
    assert {run.data.tags["group"] for run in found} == {"main"}


def assert_unharmed(done, run: Path, *says: str) -> None:
    """The run ended well, told of the tracker once, and wrote down what became of it."""
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "tracker=" in line]
    assert line.startswith("passk: tracker=")
    assert line.endswith("the run goes on without it; metrics.jsonl has everything")
    assert len(metrics(run)) == 2
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    for words in says:
        assert words in line and words in manifest["tracker_failure"]


SHORT = (*SMALL, "train.num_steps=2", "eval.every=1", *QUICK, "hydra.run.dir=run")


def test_a_tracker_that_fails_on_the_way_does_not_stop_the_run(passk, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    log_batch, calls = MlflowClient.log_batch, []

    def break_down(self, run_id, metrics=(), **rest):
        calls.append(metrics)
        if any(metric.key == "loss" for metric in metrics):
            raise ConnectionError("no route to the server\nand a long tail")
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", break_down)
    done = passk("train", *SHORT, "tracker=mlflow", "tracker.dir=store")
    assert_unharmed(done, tmp_path / "run", "ConnectionError: no route to the server")
    assert "long tail" not in done.err
    assert sum(any(metric.key == "loss" for metric in some) for some in calls) == 1


def test_a_tracker_that_cannot_be_opened_does_not_stop_the_run(passk, tmp_path):
    (tmp_path / "in_the_way").write_text("")
    done = passk("train", *SHORT, "tracker=tensorboard", "tracker.dir=in_the_way")
    assert_unharmed(done, tmp_path / "run", "NotADirectoryError")


def test_without_a_login_nobody_is_asked_for_one(passk, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for stream in ("stdin", "stderr"):  # on a terminal wandb would ask, and wait
        monkeypatch.setattr(f"wandb.errors.term._sys_{stream}_isatty", lambda: True)
    done = passk("train", *SHORT, "tracker=wandb", "tracker.mode=online")
    assert_unharmed(done, tmp_path / "run", "UsageError: No API key configured")


@pytest.mark.filterwarnings("ignore:trackio failed to flush")
def test_what_trackio_only_warns_of_is_told(passk, tmp_path, monkeypatch):
    from trackio.sqlite_storage import SQLiteStorage

    def refuse(*_, **__):
        raise OSError("database is locked")

    monkeypatch.setattr(SQLiteStorage, "bulk_log", refuse)
    done = passk("train", *SHORT, "tracker=trackio")
    assert_unharmed(done, tmp_path / "run", "values are not in its database")


def test_a_tracker_that_hangs_at_the_end_is_left_behind(passk, tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    let_go = threading.Event()
    monkeypatch.setattr(SummaryWriter, "close", lambda _: let_go.wait())
    monkeypatch.setattr(trackers, "PATIENCE_SECONDS", 0.5)
    done = passk("train", *SHORT, "tracker=tensorboard")
    let_go.set()
    assert_unharmed(done, tmp_path / "run", "it was not done 0.5 s after the run had ended")


REFUSED = (
    (["tracker=neptune"], "tracker=neptune is unknown; allowed: mlflow, none, tensorboard"),
    (["tracker.name=neptune"], "tracker.name=neptune is unknown; allowed: none, tensorboard"),
    (["tracker=mlflow", "tracker.mode=online"], "tracker.mode=online goes with tracker=wandb"),
    (["tracker=trackio", "tracker.dir=here"], "TRACKIO_DIR"),
)


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_settings_that_a_tracker_has_no_use_for_are_refused(passk, tmp_path, words, says):
    done = passk("train", *words, "hydra.run.dir=run")
    assert done.code == 2 and says in done.err
    assert not list(tmp_path.iterdir())


def test_a_reproduction_names_its_runs_itself(passk, tmp_path):
    done = passk("reproduce", "tracker=tensorboard", "tracker.run_name=x", "hydra.run.dir=run")
    assert done.code == 2 and "tracker.run_name=x would give all runs one name" in done.err
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_told_before_anything_is_written(passk, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = passk("train", "tracker=wandb", "hydra.run.dir=run")
    assert done.code == 2
    assert done.err == (
        "passk: tracker=wandb needs wandb, which is not installed: "
        "pip install 'passk-rl[tracking]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_that_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="which is not installed"):
        check_tracker(TrackerConfig(name="wandb"))


def test_numbers_under_names_of_their_own():
    line = {
        "step": 3,
        "loss": 0.5,
        "k": 8,
        "alignment": None,
        "products": (0.25, None, -1.0),
        "reasons": {"right": 2, "no_answer": 1},
        "worst": float("inf"),
        "engine": "torch",
    }
    assert scalars(line) == {
        "loss": 0.5,
        "k": 8.0,
        "products/1": 0.25,
        "products/3": -1.0,
        "reasons/right": 2.0,
        "reasons/no_answer": 1.0,
    }


def test_names_come_from_the_place_of_a_run(tmp_path):
    cell = tmp_path / "sweep" / "regime.k=2"
    cell.mkdir(parents=True)
    assert place_among_runs(cell) == (None, "regime.k=2")
    (tmp_path / "sweep" / FOLDER).mkdir()
    assert place_among_runs(cell) == ("sweep", "regime.k=2")
    assert place_among_runs(tmp_path / "main" / "seed-3" / "sft") == ("main", "seed-3/sft")
