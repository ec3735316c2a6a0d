from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from cagc import recipes
from cagc.checkpoints import load_generator
from cagc.cli import commands, main
from cagc.common.errors import CagcError
from cagc.compress import CompressConfig, compress, resume_compress
from cagc.distill import DistillConfig
from cagc.recipes import RECIPES, Recipe, recipe


def test_the_papers_hyperparameters():
    paper = recipe("paper")
    training = paper.distillation
    assert (paper.metric, paper.samples, paper.batch_rule, paper.rescale) == ("content-aware", 400, "batch-sum", "none")
    assert (training.rgb_weight, training.perceptual_weight, training.perceptual) == (3, 3, "lpips-vgg")
    assert (training.learning_rate, training.betas, training.batch_size) == (0.002, (0, 0.99), 16)
    assert (training.r1_gamma, training.d_reg_every, training.path_weight, training.g_reg_every) == (10, 16, 2, 4)
    assert (training.path_batch_shrink, training.path_decay, training.mixing_probability) == (2, 0.01, 0.9)
    assert (training.steps, training.flip, training.kd_mode, training.discriminator) == (
        450_000,
        True,
        "output",
        "teacher",
    )
    assert training.ema_decay(0) == training.ema_decay(10**6) == pytest.approx(0.5 ** (32 / 10_000), rel=1e-12)


def test_the_others_differ_where_they_should():
    stylekd, dcp, svs = (recipe(name) for name in ("stylekd", "dcp", "svs"))
    assert recipe("everything") == replace(recipe("paper"), content="everything")
    training = stylekd.distillation
    assert (training.relation_weight, training.relation_strength, training.relation_directions) == (30, 5, 5)
    assert training.relation_resolutions == (16, 32, 64, 128) and training.frozen == ("mapping.*",)
    assert dcp == replace(stylekd, metric="diversity", samples=1000)
    assert svs.rescale == "svs" and svs.distillation == replace(dcp.distillation, discriminator="new")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    document = json.loads(json.dumps(RECIPES[name].to_dict()))
    assert Recipe.from_dict(document) == RECIPES[name]
    with pytest.raises(ValueError, match="metrics"):
        Recipe.from_dict({"metrics": 1})


def test_what_is_given_goes_before_the_recipe():
    plain = CompressConfig().resolve()
    assert (plain.metric, plain.samples, plain.content, plain.steps) == ("content-aware", 400, "faces", 800)
    assert plain.distillation == RECIPES["quick"].distillation
    given = CompressConfig(recipe="everything", steps=7, seed=3, samples=9).resolve()
    assert (given.content, given.samples, given.rescale) == ("everything", 9, "none")
    assert given.distillation == replace(RECIPES["paper"].distillation, steps=7, seed=3)
    assert CompressConfig(recipe="everything", content="hair.zip").resolve().content == "hair.zip"
    own = CompressConfig(distillation=DistillConfig(steps=11, batch_size=2)).resolve()
    assert own.steps == 11 and own.distillation.batch_size == 2
    assert given.resolve() == given
    with pytest.raises(CagcError, match="recipe: got 'papers', expected one of quick, paper, everything"):
        CompressConfig(recipe="papers").resolve()


def test_large_images_have_fewer_steps_samples_and_targets_where_none_were_given():
    small, large = CompressConfig().resolve(128), CompressConfig().resolve(256)
    assert small == CompressConfig().resolve() and recipe("paper", 1024) == recipe("paper")
    assert (large.samples, large.steps, large.distillation.target_pool) == (100, 500, 1000)
    expected = replace(RECIPES["quick"].distillation, steps=500, target_pool=1000)
    assert large.distillation == expected == recipe("quick", 256).distillation
    typed = CompressConfig(steps=800, samples=400, distillation=replace(expected, target_pool=1400, batch_size=4))
    assert CompressConfig(distillation=RECIPES["quick"].distillation).resolve(256) == large
    assert (typed.resolve(256).steps, typed.resolve(256).samples) == (800, 400)
    assert typed.resolve(256).distillation.batch_size == 4
    assert CompressConfig(distillation=replace(expected, steps=600)).resolve(256).steps == 600
    assert large.resolve(256) == large
    kept = CompressConfig(distillation=RECIPES["quick"].distillation, given=("target_pool",)).resolve(256)
    assert (kept.steps, kept.distillation.target_pool, kept.given) == (500, 1400, ())


def test_a_setting_that_is_typed_stays_though_it_is_the_recipes_for_small_images(monkeypatch):
    asked = []
    monkeypatch.setattr(commands, "compress", asked.append)
    main(["compress", "--distillation.target-pool", "1400", "--distillation.steps=800"])
    settings = asked[0].resolve(256).distillation
    assert (settings.target_pool, settings.steps, settings.perceptual_limit) == (1400, 800, 128)


def test_a_run_on_large_images_goes_on_as_it_began(tmp_path, small_teacher, small_images, monkeypatch):
    quick = RECIPES["quick"]
    large = replace(quick, samples=3, distillation=replace(quick.distillation, steps=2, target_pool=8))
    config = CompressConfig(
        teacher=small_teacher, data=small_images, content="everything", evaluation_samples=24, web=False, macs=0.5,
        features="efficientnet-lite0@32", distillation=replace(quick.distillation, perceptual_weight=0), out=tmp_path,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "_LARGE", {"quick": (8, large)})
        compress(config)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["samples"], written["steps"], written["distillation"]["target_pool"]) == (3, 2, 8)
    (tmp_path / "distill" / "checkpoints" / "step-000000002.pt").unlink()  # as if it had been stopped at the first step
    before = load_generator(tmp_path / "student.safetensors").state_dict()
    resume_compress(tmp_path)
    after = load_generator(tmp_path / "student.safetensors").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_run_by_recipe_prints_it_in_full_and_its_options_can_be_overridden(tmp_path, small_teacher, small_images):
    out = tmp_path / "out"
    options = {
        "recipe": "svs", "teacher": small_teacher, "data": small_images, "content": "everything", "samples": 2,
        "macs": 0.5, "steps": 2, "evaluation-samples": 24, "features": "efficientnet-lite0@32", "out": out,
        "distillation.perceptual-weight": 0, "distillation.batch-size": 4, "distillation.relation-resolutions": 16,
    }  # fmt: skip
    main(["compress", *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
    written = json.loads((out / "config.json").read_text())
    assert (written["recipe"], written["metric"], written["rescale"]) == ("svs", "diversity", "svs")
    expected = replace(
        RECIPES["svs"].distillation, steps=2, perceptual_weight=0.0, batch_size=4, relation_resolutions=(16,)
    )
    assert DistillConfig.from_dict(written["distillation"]) == expected
    run = json.loads((out / "distill" / "config.json").read_text())
    assert run["settings"] == expected.to_dict() and run["identity"]["discriminator"] == "new"
    assert json.loads((out / "plan.json").read_text())["metric"] == "diversity"
    assert load_generator(out / "student.safetensors").config.resolution == 16
    (line,) = (json.loads(row) for row in (out / "distill" / "metrics.jsonl").read_text().splitlines())
    assert line["relation"] > 0 and line["generator"] > 0


@pytest.mark.parametrize("words", [("--recipe", "papers"), ("--recipe=papers",)])
@pytest.mark.parametrize("command", ["compress", "distill"])
def test_unknown_recipes_are_refused_with_the_known_ones(command, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, *words, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "got 'papers', expected one of quick, paper, everything" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_installed_are_missed_before_any_work(
    tmp_path, small_teacher, small_images, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "lpips", None)
    words = ["--recipe", "paper", "--teacher", small_teacher, "--data", small_images, "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as stop:
        main(["compress", *map(str, words)])
    assert stop.value.code == 2 and "pip install lpips" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
