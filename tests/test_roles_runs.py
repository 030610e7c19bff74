"""Runs with chart roles: exact resume, accumulation, two processes, what the manifest says, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from chartray.config import pretrain as knobs
from chartray.config.roles import ROLE_WORDS
from chartray.errors import InputError
from chartray.evaluation.baselines import baseline_chart
from chartray.model_card.card import Loading, model_card
from chartray.networks import encoder as vit
from chartray.pixels.store import Store
from chartray.report.inputs import read_run
from chartray.report.methods_pretraining import pretraining
from chartray.results.manifest import arm_of_run
from chartray.training import run_folder
from chartray.training.controls import ChartTable, corrupted
from chartray.training.early import check_run
from chartray.training.loader import ImageLoader
from chartray.training.pretrain import pretrain
from chartray.training.training_data import load_training_data, settings_hash
from tests.stores import replace_cohort
from tests.test_pretrain import RUN, command, gradients, losses, small, weights

ALL = "sex=anchor+predict,age=contrast"
OTHERS = "sex=mmcl+contrast,age=mmcl+predict"
NUISANCE = "sex=suppress,age=suppress-contrast+anchor"
# The heads' gradient is there from the first step.
AT_ONCE = {"chart__warmup": 0.0}


@pytest.mark.parametrize("roles", [ALL, OTHERS, NUISANCE])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(small_store: Path, roles: str) -> None:
    store = Store.open(small_store)
    whole, wanted = gradients(store, 1, chart__roles=roles)
    parts, found = gradients(store, 4, chart__roles=roles)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert wanted.keys() == found.keys()
    assert any(name.startswith("chart.heads") for name in found)
    rounding = 1e-6 * torch.stack([each.norm() for each in wanted.values()]).norm()
    for name in wanted:
        assert (wanted[name] - found[name]).norm() <= 1e-4 * wanted[name].norm() + rounding, name


def test_roles_resume_bit_for_bit_and_stay_out_of_the_encoder(small_store: Path, tmp_path: Path) -> None:
    settings = AT_ONCE | {"chart__roles": "sex=contrast+mmcl,age=anchor+suppress"}
    pretrain(small_store, tmp_path / "whole", small(**settings))
    pretrain(small_store, tmp_path / "halves", small(**settings))
    for later in ("checkpoints/step-000006", "encoder"):
        shutil.rmtree(tmp_path / "halves" / later)
    pretrain(small_store, tmp_path / "halves", small(**settings), resume=True)
    for name in ("loss", "chart.sex.contrast", "chart.mmcl", "chart.age.suppress", "chart.ramp"):
        assert losses(tmp_path / "halves", name) == losses(tmp_path / "whole", name)
    whole, halves = weights(tmp_path / "whole", 6), weights(tmp_path / "halves", 6)
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    centroids = [name for name in whole if name.endswith("centroids")]
    assert len(centroids) == 1
    assert whole[centroids[0]].any(dim=1).all()
    encoders = [(tmp_path / run / "encoder" / "model.safetensors").read_bytes() for run in ("whole", "halves")]
    assert encoders[0] == encoders[1]
    assert not any("chart" in name or "head" in name for name in vit.load(tmp_path / "whole").model.state_dict())

    manifest = run_folder.read_manifest(tmp_path / "whole")
    assert (manifest.chart, manifest.chart_use) == ("age,sex", "age=anchor+suppress,sex=contrast+mmcl")
    assert manifest.chart_variables == ["age", "sex"]
    said = " ".join(pretraining([read_run(tmp_path / "whole")], []))
    card = model_card(vit.load(tmp_path / "whole"), [], name="roles", loading=Loading("timm", False, ""))
    title = "age anchored + sex contrasted + sex matched (MMCL) + age suppressed"
    assert arm_of_run(manifest).title == title
    for role, name in (("anchor", "age"), ("contrast", "sex"), ("mmcl", "sex"), ("suppress", "age")):
        assert f"The chart ({name}) {ROLE_WORDS[role]}" in said
        assert f"The patient's chart ({name}) {ROLE_WORDS[role]}." in card
    with pytest.raises(InputError, match=r"chart\.roles = .*found .*; omit it to resume"):
        pretrain(small_store, tmp_path / "whole", small(**settings | {"chart__roles": "sex=contrast"}), resume=True)


TWO = """
import os, sys, torch
import torch.distributed as dist
from safetensors.torch import save_file
from chartray.collective import all_sum, average_gradients, process_count
from chartray.training.chart_roles import with_chart
from tests import test_roles as roles

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if world > 1:
    dist.init_process_group("gloo")
torch.manual_seed(0)
layer, found = torch.nn.Linear(roles.D, roles.D), {}
for given in ("sex=mmcl age=mmcl sex=contrast age=predict", "sex=suppress-contrast age=suppress",
              "sex=decorrelate age=decorrelate age=predict"):
    chart = roles.chart_of(*given.split())
    module, batch = roles.built(chart), roles.batch_of(chart, 0.5)
    share = slice(rank * roles.B // world, (rank + 1) * roles.B // world)
    tokens = layer(roles.drawn(roles.V, roles.B, roles.D)[:, share].flatten(0, 1))
    _, losses = with_chart(module, tokens, batch.of_images(share))
    layer.zero_grad()
    losses.total.backward()
    parameters = {"layer." + n: p for n, p in layer.named_parameters()} | dict(module.named_parameters())
    average_gradients(parameters.values())
    found |= {f"{given} {name}": all_sum(loss) / process_count() for name, loss in losses.heads.items()}
    found |= {f"{given} {name}": value.grad.clone() for name, value in parameters.items()}
    found |= {f"{given} {name}": value.clone() for name, value in module.named_buffers()}
if rank == 0:
    save_file({name: value.clone() for name, value in found.items()}, sys.argv[1])
if world > 1:
    dist.destroy_process_group()  # a process that ends first aborts one that still listens to it
"""


def test_two_processes_give_the_losses_gradients_and_centroids_of_one(tmp_path: Path) -> None:
    """Every role on the same class tokens, which one process has or two share: equal within 1e-5."""
    (tmp_path / "two.py").write_text(TWO)
    root = str(Path(__file__).parents[1])
    alike = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    alone = subprocess.Popen(
        [sys.executable, str(tmp_path / "two.py"), str(tmp_path / "one")], env=alike | {"RANK": "0", "WORLD_SIZE": "1"}
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    tokens = [*launcher, str(tmp_path / "two.py"), str(tmp_path / "two")]
    done = subprocess.run(tokens, capture_output=True, env=alike)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert alone.wait() == 0
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) > 25
    for name in one:
        # Six images do not span 16 numbers: moments that differ by 1e-7 give gradients that differ by 1e-4 here.
        exact, least = (1e-3, 1e-3) if "decorrelate" in name else (1e-5, 1e-6)
        assert torch.allclose(one[name], two[name], rtol=exact, atol=least), name


@pytest.mark.slow
def test_a_run_on_two_processes_gives_the_numbers_and_the_weights_of_one(small_store: Path, tmp_path: Path) -> None:
    settings = AT_ONCE | {"train__steps": 4, "chart__roles": "sex=suppress-contrast+anchor,age=predict"}
    pretrain(small_store, tmp_path / "one", small(**settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = tmp_path / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [*launcher, str(script), *command(small_store, tmp_path / "two", **settings)[3:]],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    heads = [name for name in metric_names(tmp_path / "one") if name.startswith("chart.")]
    assert heads == ["chart.age.predict", "chart.sex.suppress-contrast", "chart.ramp"]
    for name in ("loss", *heads):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), rel=2e-5), name
    norms = [losses(tmp_path / run, "gradient_norm") for run in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    one, two = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in (each for each in one if each.startswith(("chart.heads", "encoder.blocks"))):
        assert torch.allclose(one[name], two[name], atol=2e-4), name


def metric_names(run: Path) -> list[str]:
    return list(json.loads((run / "metrics.jsonl").read_text().splitlines()[0]))


def test_the_short_form_is_one_role_of_all(small_store: Path) -> None:
    """`--ehr sex,age --chart.use predict` and the same in roles are one chart, one arm and one gradient."""
    store = Store.open(small_store)
    short, long = small(chart__ehr="age,sex", chart__use="predict"), small(chart__roles="sex=predict,age=predict")
    assert [(each.chart.name, each.chart.said_use) for each in (short, long)] == [("age,sex", "predict")] * 2
    assert settings_hash(short) == settings_hash(long) == settings_hash(small())
    charts = [load_training_data(store, each).chart for each in (short, long)]
    assert charts[0] == charts[1]
    assert small(chart__ehr="sex", chart__roles={"age": "suppress"}).chart.by_name == {
        "sex": ("anchor",),
        "age": ("suppress",),
    }
    assert settings_hash(small(chart__suppress_weight=1.0)) != settings_hash(small())


def test_a_role_without_the_flags_keeps_images_that_the_published_rows_drop(small_store: Path) -> None:
    """What is missing has no loss: no image is dropped for it. A number is contrasted in bins of alike size."""
    data = load_training_data(Store.open(small_store), small(chart__roles="age=contrast,sex=predict", chart__bins=3))
    assert data.chart is not None
    age = next(one for one in data.chart.encodings if one.variable == "age")
    assert (len(age.columns), len(age.edges), age.flagged) == (3, 2, False)
    rows = data.charts(np.arange(len(data.rows)), np.zeros(len(data.rows), np.int64)).rows
    block = next(one for one in data.chart.blocks if one.variable == "age")
    shares = rows[:, block.start : block.stop].sum(axis=0)
    assert shares.min() > 0.8 * shares.max()


def table_of(patients: list[int]) -> ChartTable:
    rows = np.arange(len(patients) * 5, dtype=np.float32).reshape(len(patients), 5)
    return ChartTable(rows, np.ones((len(patients), 2), np.bool_), np.array(patients))


def test_corruption_gives_whole_entries_of_other_patients_as_often_as_asked() -> None:
    table = table_of([image // 2 for image in range(2000)])
    spans = [slice(0, 2), slice(2, 4)]
    rows = corrupted(table, spans, 0.3, seed=1, step=5)
    assert np.array_equal(rows[:, 4], table.rows[:, 4])
    for span in spans:
        changed = (rows[:, span] != table.rows[:, span]).any(axis=1)
        assert 0.27 < changed.mean() < 0.33
        donors = rows[:, span.start].astype(int) // 5
        assert np.array_equal(rows[:, span], table.rows[donors, span])  # both columns of one donor
        assert (donors[changed] // 2 != np.arange(2000)[changed] // 2).all()
    other = (rows != table.rows)[:, [0, 2]]
    assert not np.array_equal(other[:, 0], other[:, 1])  # entries fall apart from each other
    assert np.array_equal(rows, corrupted(table, spans, 0.3, seed=1, step=5))
    assert not np.array_equal(rows, corrupted(table, spans, 0.3, seed=1, step=6))
    alone = table_of([3, 3, 3])
    assert np.array_equal(corrupted(alone, spans, 0.9, seed=0, step=0), alone.rows)


def test_a_process_corrupts_its_share_as_the_whole_batch_is(small_store: Path) -> None:
    store, config = Store.open(small_store), small(chart__roles="sex=mmcl,age=mmcl", chart__corruption=0.5)
    data = load_training_data(store, config)

    def batch(rank: int, world: int) -> Any:
        loader = ImageLoader(
            store, data.rows, config.views, patch_side=8, batch_size=24, seed=0, rank=rank, world=world
        )
        return data.chart_batch(loader.load(5), torch.device("cpu")).rows  # a batch over the end of a pass

    whole = batch(0, 1)
    assert torch.equal(whole, torch.cat((batch(0, 2), batch(1, 2))))
    places = ImageLoader(store, data.rows, config.views, patch_side=8, batch_size=24, seed=0).load(5)
    clean = torch.from_numpy(data.charts(places.places, places.epochs).rows)
    assert 0.1 < (whole != clean).any(dim=1).float().mean() < 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chart__roles": "sexx=predict"}, r"found 'sexx' \(did you mean 'sex'\?\)"),
        ({"chart__roles": "Bars=suppress"}, "found the label 'Bars'; a label takes no part in pretraining"),
        ({"chart__roles": "Bars=decorrelate"}, "found the label 'Bars'; a label takes no part in pretraining"),
        ({"chart__roles": "died=predict"}, "died.*after the image.*--chart.allow-after-film died"),
        ({"chart__roles": "demographic-norm=predict,sex=suppress"}, "roles of 'sex' that do not contradict"),
        ({"chart__roles": "demographic-norm=mmcl,sex=decorrelate"}, "roles of 'sex' that do not contradict"),
        ({"chart__roles": "age=predict,age-norm=none"}, "roles of 'age' that do not contradict"),
        ({"chart__roles": "view=suppress"}, "'view'"),
        ({"chart__roles": "sex=none", "chart__control": "shuffled"}, "--control shuffled"),
        ({"chart__roles": "sex=contrast", "chart__control": "mask-only"}, "no value of 'sex'"),
    ],
)
def test_roles_that_cannot_be_are_one_sentence(
    small_store: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as error:
        pretrain(small_store, tmp_path / "run", small(**settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("role", ["contrast", "suppress-contrast", "predict", "decorrelate"])
@pytest.mark.parametrize(("name", "value", "what"), [("sex", "female", "levels"), ("age", 61.0, "values")])
def test_a_variable_of_one_level_has_no_role(
    small_store: Path, tmp_path: Path, role: str, name: str, value: object, what: str
) -> None:
    """Nothing could be told apart: the loss would be 0, and its gradient too."""
    store = tmp_path / "store"
    shutil.copytree(small_store, store)
    cohort = Store.open(store).cohort
    place = cohort.schema.get_field_index(f"ehr.{name}")
    same = pa.array([value] * cohort.num_rows, cohort.schema.field(place).type)
    replace_cohort(store, cohort.set_column(place, cohort.schema.field(place), same))
    said = f"at least two observed {what} of '{name}' in the training split, found 1 in 144 images"
    with pytest.raises(InputError, match=said):
        pretrain(store, tmp_path / "run", small(chart__roles=f"{name}={role}"))
    assert not (tmp_path / "run").exists()


def test_what_a_run_will_do_is_said_with_the_chart_of_its_roles(
    small_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_run(small_store, None, small(chart__roles="sex=predict,age=anchor"), resume=False)
    assert "the chart age,sex" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ("sex=ankor", r"found 'ankor' \(did you mean 'anchor'\?\)"),
        ("sex=predict+suppress", "roles of 'sex' that do not contradict each other"),
        ("sex=none,sex=anchor", "roles of 'sex' that do not contradict each other"),
        ("sex", "expected NAME=ROLE in chart.roles, found 'sex'"),
        ({"sex": None}, "expected a role of 'sex'"),
        ({"sex": {"a": 1}}, "expected a role of 'sex'"),
        (3, "chart.roles"),
    ],
)
def test_roles_that_cannot_be_read_are_one_sentence(roles: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        small(chart__roles=roles)
    assert "\n" not in str(error.value)


def test_a_variable_in_two_encodings_has_two_roles_and_one_place_in_the_chart_baseline(small_store: Path) -> None:
    store = Store.open(small_store)
    data = load_training_data(store, small(chart__roles="age-norm=anchor,age-10=contrast,sex=suppress"))
    assert data.chart is not None
    assert [(each.variable, each.role) for each in data.chart.encodings] == [
        ("age", "anchor"),
        ("age", "contrast"),
        ("sex", "suppress"),
    ]
    chart, left_out = baseline_chart(store.cohort, data.chart.ehr, [])
    assert chart is not None
    assert (chart.ehr, [*left_out]) == ("age-10,sex", ["age"])


def test_baselines_and_roles() -> None:
    assert knobs.load("dino", None, {"chart.roles": "sex=predict"}).chart.name == "sex"
    with pytest.raises(InputError, match=r"mae, which draws pixels and has no anchor.* found sex"):
        knobs.load("mae", None, {"chart.roles": "sex=predict"})
    with pytest.raises(InputError, match=r"expected chart\.use with --ehr"):
        small(chart__roles="sex=anchor", chart__use="predict")
