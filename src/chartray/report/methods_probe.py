"""The methods paragraph's middle: how labels were learnt on top of the encoder, as each row and manifest says."""

from collections.abc import Mapping, Sequence

from chartray.report.inputs import Results
from chartray.results.schema import MACRO, Score

# What a probe's strength (or number of neighbours) was chosen on, as `chosen_by` in results.jsonl names it.
_CHOSEN = {
    "validation": "on the validation images",
    "cross-validation": "by cross-validation by patient inside the training images",
    "other labels": "as was best for the other labels",
    "cross-validation of all labels together": "by cross-validation by patient of all labels together",
    "nothing": "on no image (the middle of the list)",
}


def chosen_words(scores: Sequence[Score], protocol: str) -> str:
    """What was chosen and on what, as the rows of the encoders say: "its strength was chosen on the validation images
    (2 of 14 labels) and by cross-validation by patient inside the training images (12 of 14)"; "" where none says.
    """
    found: dict[str, set[str]] = {}
    for one in scores:
        if not one.arm.is_baseline and one.metric == "auroc" and one.label != MACRO and one.chosen_by:
            found.setdefault(one.chosen_by, set()).add(one.label)
    if not found:
        return ""
    what = "the number of neighbours" if protocol == "knn" else "its strength"
    ways = [_way(by) for by in found]
    if len(ways) > 1:
        every = len(set().union(*found.values()))
        ways = [f"{way} ({len(labels)} of {every} labels)" for way, labels in zip(ways, found.values(), strict=True)]
    return f"{what} was chosen {' and '.join(ways)}"


def learnt_words(protocol: str, chosen: str, results: Sequence[Results]) -> str:
    """How labels were learnt from the encoder: ends a sentence that begins with what was scored."""
    if protocol == "linear":
        return "by an L2-regularised logistic regression per label" + (f"; {chosen}" if chosen else "")
    if protocol == "knn":
        return "by nearest training images, weighted by cosine" + (f"; {chosen}" if chosen else "")
    if protocol not in ("finetune", "published"):
        return f"by the protocol {protocol}"
    recipes = [one.evaluation.recipe for one in results if one.evaluation and one.evaluation.recipe]
    same = recipes and all(recipe == recipes[0] for recipe in recipes)
    start = (
        "after fine-tuning the whole encoder" if protocol == "finetune" else "by the protocol of the published system"
    )
    return start + (f" ({_recipe_words(recipes[0])})" if same else "")


def _way(by: str) -> str:
    return " or ".join(_CHOSEN.get(one, one) for one in by.split(" or "))


def _recipe_words(recipe: Mapping[str, str | float | None]) -> str:
    """A recipe of training by gradient descent; a number that it does not hold is left out."""
    optimizer = {"adam": "Adam", "adamw": "AdamW"}.get(str(recipe.get("optimizer")), str(recipe.get("optimizer")))
    found = ["the linear layer alone"] if recipe.get("freeze") else []
    found += [f"{optimizer}, learning rate {recipe['learning_rate']:g}"] if "learning_rate" in recipe else []
    found += [f"{recipe['scheduler']} schedule"] if recipe.get("scheduler") else []
    named = {
        "warmup_epochs": "{:g} epochs of warm-up",
        "weight_decay": "weight decay {:g}",
        "batch_size": "batches of {:g} images",
        "drop_path": "drop path {:g}",
        "mixup": "mixup {:g}",
        "max_epochs": "at most {:g} epochs",
        "patience_epochs": "stopped after {:g} epochs without a gain on the validation images",
    }
    found += [words.format(recipe[name]) for name, words in named.items() if recipe.get(name)]
    decay = recipe.get("layer_decay")
    found += [f"layer-wise rate decay {decay:g}"] if decay not in (None, 1.0) else []
    return ", ".join(found)
