"""Attention, similar patches and similar images, each against its definition written again in a few lines."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer

from chartray.config.evaluate import EvaluateOptions
from chartray.errors import InputError
from chartray.evaluation import saliency
from chartray.evaluation.attention import (
    attention_weights,
    pooled_rollout,
    record_attention,
    rollout,
    token_similarity,
    unreadable,
)
from chartray.evaluation.image_set import Match, Policy, image_set_of, metadata_of
from chartray.evaluation.retrieval import agreement, nearest_of_others, same_patient_first
from chartray.evaluation.scoring import EvaluationSet
from chartray.networks.encoder import load, tokens_of, untrained
from chartray.outputs.seal import seal
from chartray.pixels.store import Store
from chartray.report.inputs import read_results
from chartray.report.saliency import saliency_section
from chartray.results.manifest import SaliencyEntry
from chartray.results.saliency import Gallery, LabelAgreement, SaliencyControl
from chartray.schema import hashed
from chartray.statistics.metrics import eligible
from tests.evaluation_folders import evaluate

from .evaluation_folders import vit


def small_vit(**more: object) -> VisionTransformer:
    torch.manual_seed(3)
    made = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2} | more
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, dynamic_img_size=True, **made).eval()
    for parameter in model.parameters():  # timm's biases start at 0, its attention nearly even
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def numpy_attention(model: VisionTransformer, tokens: np.ndarray) -> list[np.ndarray]:
    """The mean attention of each block, from the weights alone."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    erf = np.vectorize(math.erf)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    found, heads = [], model.blocks[0].attn.num_heads
    for block in range(len(model.blocks)):
        q, k, v = np.split(linear(normed(tokens, f"blocks.{block}.norm1"), f"blocks.{block}.attn.qkv"), 3, axis=-1)
        out, mean = np.empty_like(v), 0.0
        for head in np.split(np.arange(v.shape[-1]), heads):
            logits = np.exp(q[:, head] @ k[:, head].T / np.sqrt(len(head)))
            attention = logits / logits.sum(1, keepdims=True)
            mean, out[:, head] = mean + attention / heads, attention @ v[:, head]
        found.append(mean)
        tokens = tokens + linear(out, f"blocks.{block}.attn.proj")
        hidden = linear(normed(tokens, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
        tokens = tokens + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"blocks.{block}.mlp.fc2")
    return found


@torch.inference_mode()
def test_rollout_of_a_two_block_vit_is_that_of_numpy() -> None:
    model, films = small_vit(), torch.randn(3, 1, 32, 32)
    seen = record_attention(model, films)
    rolled = rollout(seen.attention)
    assert torch.allclose(rolled.sum(-1), torch.ones(3, 17), atol=1e-6)
    start = model._pos_embed(model.patch_embed(films)).double().numpy()
    for film in range(3):
        first, second = numpy_attention(model, start[film])
        expected = (second + np.eye(17)) / 2 @ ((first + np.eye(17)) / 2)
        np.testing.assert_allclose(seen.attention[film], [first, second], atol=2e-6)
        np.testing.assert_allclose(rolled[film], expected, atol=2e-6)
        share = expected[0, 1:] / expected[0, 1:].sum()
        np.testing.assert_allclose(pooled_rollout(model, seen.attention)[film], share, atol=2e-6)
    assert rolled.std() > 0.01  # no even attention, which any order of the blocks would pass
    assert not torch.allclose(rolled, rollout(seen.attention.flip(1)), atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_recomputed_attention_times_values_is_what_the_block_computes(fused: bool) -> None:
    set_fused_attn(fused)
    model = small_vit(qk_norm=True)
    set_fused_attn(False)
    module, tokens = model.blocks[1].attn, torch.randn(2, 17, 16)
    assert module.fused_attn is fused
    values = module.qkv(tokens)[..., 32:].reshape(2, 17, 2, 8).transpose(1, 2)
    mixed = (attention_weights(module, tokens) @ values).transpose(1, 2).reshape(2, 17, 16)
    torch.testing.assert_close(module.proj(mixed), module(tokens), atol=1e-5, rtol=0)
    # Looking leaves the model as it is: the same bits during and after.
    films = torch.randn(2, 1, 32, 32)
    before = tokens_of(model, films)
    assert torch.equal(record_attention(model, films).tokens, before)
    assert torch.equal(tokens_of(model, films), before)
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)


@torch.inference_mode()
def test_rollout_finds_the_patch_that_attention_was_built_to_find() -> None:
    """One block whose keys are the brightness of a patch and whose every query asks for it."""
    model = small_vit(depth=1, num_heads=1)
    for name, parameter in model.named_parameters():
        if not name.startswith("blocks.0.norm"):
            parameter.zero_()
    model.patch_embed.proj.weight[0] = 1.0
    model.patch_embed.proj.bias[1] = 1.0
    model.blocks[0].norm1.weight.fill_(1.0)
    model.blocks[0].norm1.bias.zero_()
    model.blocks[0].attn.qkv.bias[0] = 20.0  # every query is 20 e0
    model.blocks[0].attn.qkv.weight[16, 0] = 1.0  # keys are the first number of a token
    for patch in (0, 6, 15):
        film = torch.full((1, 1, 32, 32), -1.0)
        film[..., patch // 4 * 8 : patch // 4 * 8 + 8, patch % 4 * 8 : patch % 4 * 8 + 8] = 1.0
        share = pooled_rollout(model, record_attention(model, film).attention)[0]
        assert share.argmax() == patch
        assert share[patch] > 0.9


def test_pooling_and_attention_that_cannot_be_followed_are_named() -> None:
    assert unreadable(small_vit()) is None
    mean = small_vit(global_pool="avg", class_token=False)
    assert unreadable(mean) is None
    with torch.inference_mode():
        seen = record_attention(mean, torch.randn(1, 1, 32, 32))
        reads = rollout(seen.attention).mean(dim=1)
        torch.testing.assert_close(pooled_rollout(mean, seen.attention), reads)
    assert "'map'" in (unreadable(small_vit(global_pool="map")) or "")
    odd = small_vit()
    odd.blocks[0].attn = torch.nn.Identity()
    assert "Identity" in (unreadable(odd) or "")


def test_similarity_is_the_cosine_and_1_with_itself() -> None:
    tokens, queries = torch.randn(2, 9, 5), torch.tensor([[0, 4], [8, 1]])
    found = token_similarity(tokens, queries)
    assert torch.allclose(found.gather(2, queries[..., None]), torch.ones(2, 2, 1))
    for film in range(2):
        for place, query in enumerate(queries[film].tolist()):
            for patch in range(9):
                a, b = tokens[film, query].numpy(), tokens[film, patch].numpy()
                expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                assert found[film, place, patch].item() == pytest.approx(expected, abs=1e-6)


def test_neighbours_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(3, 1, (60, 7)).astype(np.float32)
    patients = np.array([f"p{one}" for one in rng.integers(0, 25, 60)])
    about = features - features.mean(axis=0)

    def cosine(a: int, b: int) -> float:
        return float(about[a] @ about[b] / np.linalg.norm(about[a]) / np.linalg.norm(about[b]))

    for one in nearest_of_others(features, patients, [0, 17, 59], 5):
        others = [film for film in range(60) if patients[film] != patients[one.query]]
        expected = sorted(others, key=lambda film: -cosine(one.query, film))[:5]
        assert one.neighbours == expected
        assert one.cosines == pytest.approx([cosine(one.query, film) for film in expected], abs=1e-5)
        ranked = sorted((film for film in range(60) if film != one.query), key=lambda film: -cosine(one.query, film))
        same = [rank for rank, film in enumerate(ranked, start=1) if patients[film] == patients[one.query]]
        assert one.same_patient_rank == (same[0] if same else None)
    first = [
        max((film for film in range(60) if film != query), key=lambda film: cosine(query, film)) for query in range(60)
    ]
    several = [film for film in range(60) if (patients == patients[film]).sum() > 1]
    found = same_patient_first(features, patients)
    assert found["n"] == len(several)
    assert found["first"] == pytest.approx(np.mean([patients[film] == patients[first[film]] for film in several]))
    assert same_patient_first(features, np.array([f"p{row}" for row in range(60)])) == {}
    # Images of a patient far from each other: never nearest in these 30 patients, but perhaps in the next.
    apart = np.array([f"p{row % 30}" for row in range(60)])
    sides = np.where(np.arange(60) < 30, 9.0, -9.0)[:, None]
    never = same_patient_first((features + sides).astype(np.float32), apart)
    assert never["first"] == 0
    assert (never["ci_low"], never["ci_high"]) == (0, pytest.approx(1 - 0.025 ** (1 / 30)))


def test_agreement_counts_what_neighbours_share() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(0, 1, (80, 6)).astype(np.float32)
    patients = np.array([f"p{row // 2}" for row in range(80)])
    truth = (features[:, :3] > 0.4).astype(float)
    truth[rng.random((80, 3)) < 0.2] = np.nan
    truth[:, 2] = 1.0
    found = agreement(features, patients, truth, 4, resamples=200)
    near = {one.query: one.neighbours for one in nearest_of_others(features, patients, range(80), 4)}
    for column in (0, 1):
        shares = []
        for query in np.flatnonzero(truth[:, column] == 1):
            known = [truth[film, column] for film in near[query] if not np.isnan(truth[film, column])]
            shares += [np.mean(known)] if known else []
        assert found[column] is not None
        assert found[column].neighbours == pytest.approx(np.mean(shares))
        assert found[column].n == len(shares)
        assert found[column].films == pytest.approx(np.nanmean(truth[:, column]))
        assert found[column].ci_low < found[column].neighbours < found[column].ci_high
    assert found[2] is None  # nothing can be said of a finding that every image has
    # A finding that is the first axis is agreed in far more than one drawn at random.
    assert found[0].ci_low > found[0].films


def test_chosen_images_are_the_extremes_of_each_finding_once() -> None:
    truth = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, np.nan], [1, 0, 1.0]])
    scores = np.array([[0.9, 0.2, 0.5], [0.1, 0.3, 0.5], [0.9, 0.1, 0.5], [0.4, 0.8, 0.5], [0.3, 0.9, 0.5], [0.2] * 3])
    found = saliency.chosen_images(truth, scores, ["Edema", "Mass", "No Finding"], 12)
    assert [(one.image, one.label, one.why.removesuffix(" it")) for one in found] == [
        (0, "Edema", "highest score of the images with"),
        (1, "Edema", "lowest score of the images with"),
        (3, "Edema", "highest score of the images without"),
        (4, "Mass", "highest score of the images without"),
        (2, "No Finding", "highest score of the images with"),
        (5, "No Finding", "lowest score of the images with"),
    ]
    assert saliency.chosen_images(truth, scores, ["Edema", "Mass", "No Finding"], 2) == found[:2]
    assert saliency.chosen_images(np.ones((3, 1)), np.ones((3, 1)), ["Edema"], 12) == []


def scored(store: Store) -> EvaluationSet:
    films = image_set_of(store, "test", ["Disc", "Bars"], Policy())
    ids = store.cohort.column("image_id").take(films.rows).to_pylist()
    matches = [Match("Disc", "Disc"), Match("Bars", "Bars")]
    counted = eligible(films.truth, films.patients)
    return EvaluationSet(metadata_of(store).source, "store", films, ids, matches, np.arange(2), counted)


def test_looks_hold_maps_controls_and_neighbours_but_no_identifier(small_store: Path, tmp_path: Path) -> None:
    folder = vit(tmp_path / "encoder", seed=1)
    test = scored(Store.open(small_store))
    features = np.random.default_rng(0).normal(size=(len(test.image_set.rows), 8)).astype(np.float32)
    scores = np.random.default_rng(1).random(test.image_set.truth.shape)
    encoders = load(folder), untrained(load(folder), seed=0)
    found = []
    for name in ("once", "again"):
        out = tmp_path / name
        told = saliency.write_saliency(out, *encoders, test, scores, features, images=6, resamples=20, device="cpu")
        assert told == SaliencyEntry(films=6)
        found.append(load_file(out / saliency.ARRAYS_FILE))
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[0])
    assert {path.read_bytes() for path in tmp_path.glob("*/gallery.json")} == {(out / "gallery.json").read_bytes()}
    described, gallery = (
        json.loads((out / name).read_text()) for name in (saliency.SALIENCY_FILE, saliency.GALLERY_FILE)
    )
    arrays = found[0]
    assert arrays["film"].shape == (6, 48, 48)
    assert arrays["rollout"].shape == arrays["rollout_untrained"].shape == (6, 4, 4)
    np.testing.assert_allclose(arrays["rollout"].sum(axis=(1, 2)), 1, atol=1e-5)
    for film in range(6):
        for place, (row, column) in enumerate(arrays["queries"][film]):
            assert arrays["similarity"][film, place, row, column] == pytest.approx(1, abs=1e-5)
        row = described["films"][film]["row"]
        assert np.abs(arrays["film"][film].astype(int) - test.image_set.store.images[row]).max() <= 1
    assert not np.allclose(arrays["rollout"], arrays["rollout_untrained"])
    assert set(described["control"]) == {
        f"{what}_{of}" for what in ("rollout", "similarity") for of in ("between_films", "with_untrained")
    }
    names = dict(zip(sorted(test.image_ids), hashed(sorted(test.image_ids)), strict=True))
    cohort = test.image_set.store.cohort
    for film in [*described["films"], *gallery["queries"], *gallery["queries"][0]["neighbours"]]:
        assert film["key"] == names[cohort["image_id"][film["row"]].as_py()]
    said = (out / saliency.SALIENCY_FILE).read_text() + (out / saliency.GALLERY_FILE).read_text()
    assert "film-" not in said  # the ids of these images begin so
    assert not any(f'"{patient}"' in said for patient in set(test.image_set.patients))
    assert len(arrays["gallery"]) == len(gallery["films"]) == len(set(gallery["films"]))
    strange = encoders[0]._replace(model=small_vit(global_pool="map"))
    why = saliency.write_saliency(tmp_path / "no", strange, encoders[1], test, scores, features, images=6)
    assert why.films == 0
    assert "'map'" in str(why.reason)
    assert not (tmp_path / "no").exists()


def test_the_section_shows_images_with_words_and_nothing_where_images_stay_off_the_page(
    small_store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    source = vit(tmp_path / "vit", seed=1, run="chart", chart="sex & <age>", control="none", chart_use="anchor")
    evaluate(source, small_store, folder, EvaluateOptions(saliency=6, resamples=20, baselines=False, device="cpu"))
    cohort = Store.open(small_store).cohort
    assert saliency_section([read_results(folder)], with_images=False) is None
    section = saliency_section([read_results(folder)], with_images=True)
    assert section is not None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chartray.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("saliency.html.j2").render(saliency=section)
    assert "sex &amp; &lt;age&gt;" in page
    assert "<age>" not in page
    names = [f">{one}<" for column in ("image_id", "patient_id") for one in cohort[column].to_pylist()]
    assert not any(name in page for name in names)
    pictures = "".join(one.svg for image in section.encoders[0].images for one in image.pictures)
    parsed = ElementTree.fromstring(f"<div>{pictures}</div>")
    drawn = parsed.findall("svg")
    assert len(drawn) == 6 * 7
    assert all(one.get("aria-label") and one.get("role") == "img" for one in drawn)
    held = {image.get("id") for image in parsed.iter("image") if image.get("id")}
    assert {use.get("href", "")[1:] for use in parsed.iter("use")} == held
    assert len(held) == 6
    assert page.count("<img ") == len(section.encoders[0].gallery) * 6
    assert 'src="http' not in page
    assert 'href="http' not in page
    # The brightest patch of the picture is the one that the words name.
    arrays = load_file(folder / "saliency" / saliency.ARRAYS_FILE)
    most = np.unravel_index(arrays["rollout"][2].argmax(), (4, 4))
    assert f"row {most[0] + 1}, column {most[1] + 1} of 4" in section.encoders[0].images[2].pictures[1].svg
    for damage in ('{"format": 9}', "{"):
        (folder / "saliency" / saliency.SALIENCY_FILE).write_text(damage)
        with pytest.raises(InputError, match=r"saliency/saliency\.json as it was written, found other content"):
            saliency_section([read_results(folder)], with_images=True)
        seal(folder)
        with pytest.raises(InputError, match=r"expected what Chartray w\w+ .*in .*saliency\.json"):
            saliency_section([read_results(folder)], with_images=True)


def test_words_say_when_maps_show_nothing_learnt() -> None:
    from chartray.report.saliency import _control, _says_alike

    first, second = _control(SaliencyControl(rollout_between_films=0.95, rollout_with_untrained=0.2))
    assert "most of a map is the same whatever the image" in first
    assert second == "Rollout maps correlate with those of the untrained encoder on the same image with r = 0.20."
    row = LabelAgreement(label="Edema", neighbours=0.3, ci_low=0.1, ci_high=0.5, films=0.25, n=9, n_patients=5)

    def said(*rows: LabelAgreement) -> str:
        (words,) = _says_alike(Gallery(dataset="mimic", split="test", agreement=rows))
        return words

    none = said(row, row.replaced(ci_low=None, ci_high=None))
    assert none.startswith("It is not shown for any finding")
    assert "0 of 2 findings; 1 have no interval" in none
    assert said(row.replaced(ci_low=0.26)).startswith("For Edema, the five nearest images")


def test_the_control_says_when_maps_do_not_depend_on_the_image() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((1, 4, 4))
    arrays = {"rollout": np.repeat(one, 3, axis=0), "rollout_untrained": rng.random((3, 4, 4))}
    arrays |= {"similarity": np.ones((3, 2, 4, 4)), "similarity_untrained": np.ones((3, 2, 4, 4))}
    found = saliency.control_of(arrays)
    assert found.rollout_between_films == pytest.approx(1)
    assert abs(found.rollout_with_untrained or 0) < 0.6
    assert found.similarity_between_films is None  # constant maps correlate with nothing
    arrays["rollout_untrained"] = arrays["rollout"]
    assert saliency.control_of(arrays).rollout_with_untrained == pytest.approx(1)


def test_evaluate_writes_looks_unless_told_not_to(small_store: Path, tmp_path: Path) -> None:
    source = vit(tmp_path / "vit", seed=1)
    for number in (4, 0):
        evaluate(
            source,
            small_store,
            tmp_path / "out",
            EvaluateOptions(saliency=number, resamples=20, baselines=False, device="cpu"),
        )
        told = json.loads((tmp_path / "out" / "evaluation.json").read_text())["saliency"]
        assert told["films"] == number
        assert (tmp_path / "out" / "saliency").is_dir() is (number > 0)
