"""In which contexts a latent fires: its strongest and random ones, and the tokens that it makes likelier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup

from vsae_search.analysis.base import Definition, Found
from vsae_search.analysis.passages import RANDOM, TOP, drawn, fired_tokens, strongest, window
from vsae_search.report.markup import code, paragraph
from vsae_search.report.text import number, percent
from vsae_search.subjects.language_model.subject import LanguageModel
from vsae_search.subjects.text.source import PackedText

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from vsae_search.analysis.material import Material
    from vsae_search.analysis.passages import Places

_TOKENS = 6
_STREAM_HOOKS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out")
"""What is read or written there is part of the residual stream, which the unembedding reads."""


class Contexts:
    """The chosen latents, one by one, in the text."""

    name = "contexts"
    title = "Features in context"
    order = 90
    definitions = (
        Definition("choice", "1", "How the latents shown were chosen."),
        Definition("density", "fraction of rows", "Share of rows on which the latent fires."),
        Definition("max_strength", "scaled activation", "Largest f ||w||."),
        Definition("tokens", "fraction of strength", "Tokens with the largest shares of the latent's summed strength."),
        Definition(
            "promoted",
            "logits",
            "Tokens whose logits rise most when the direction of the latent is read by the unembedding: logits(w) - "
            "logits(0); only at hooks of the residual stream.",
        ),
        Definition("top", "contexts", "Windows around its 8 strongest rows, at most one of a sequence."),
        Definition(
            "random", "contexts", "Windows around 8 rows drawn from those on which it fires, from other sequences."
        ),
    )

    def unavailable(self, material: Material) -> str | None:
        """No text, or no latent."""
        if not isinstance(material.subject, LanguageModel) or material.places is None:
            return "The subject reads no text: there are no contexts to show."
        return None if material.features else "No latent fires on these rows."

    def compute(self, material: Material) -> Found:
        """Windows for each chosen latent."""
        subject, places = material.subject, material.places
        assert isinstance(subject, LanguageModel)
        assert places is not None
        text_of = token_texts(subject)
        promoted = promoted_tokens(subject, material.own.unit_FD[list(material.features)])
        features = []
        for index, latent in enumerate(material.features):
            feature = _described(material, places, latent)
            feature["promoted"] = (
                [{"id": token, "logit": logit} for token, logit in promoted[index]] if promoted else None
            )
            features.append(_with_texts(feature, text_of))
        return Found({"choice": material.choice, "features": features})

    def render(self, numbers: Mapping[str, Any]) -> Sequence[Markup]:
        """One part for each latent; its random contexts are folded."""
        lead = paragraph(
            f"Latents {numbers['choice']}. The darker a token, the more strongly the latent fires on it, compared "
            "with its strongest firing; the token that the context was chosen for is underlined.",
            "note",
        )
        return lead, *(_card(feature) for feature in numbers["features"])


def token_texts(subject: LanguageModel) -> Callable[[int], str]:
    """Return what gives the text of a token; its number in brackets where the tokenizer is not at hand."""
    if not isinstance(subject.text, PackedText):
        return lambda token: f"[{token}]"
    tokenizer = subject.text.tokenizer
    return lambda token: tokenizer.decode([token])


def promoted_tokens(subject: LanguageModel, unit_KD: NDArray[np.float32]) -> list[list[tuple[int, float]]] | None:
    """Return, for each direction, the tokens whose logits it raises most; None off the residual stream."""
    if subject.hook.rpartition(".")[2] not in _STREAM_HOOKS:
        return None
    model = subject.load()
    with torch.inference_mode():
        direction_KR = torch.from_numpy(unit_KD).to(model.device)
        rise_KV = model.logits(direction_KR) - model.logits(torch.zeros_like(direction_KR[:1]))
        rise_KT, token_KT = rise_KV.topk(_TOKENS, dim=-1)
    pairs = zip(token_KT.cpu().numpy(), rise_KT.float().cpu().numpy(), strict=True)
    return [[(int(token), float(rise)) for token, rise in zip(*pair, strict=True)] for pair in pairs]


def _described(material: Material, places: Places, latent: int) -> dict[str, Any]:
    codes, seed = material.reading.codes, material.seed
    top = strongest(codes, places, latent, TOP)
    random = drawn(codes, places, latent, RANDOM, avoid=top, seed=seed)
    value_E = codes.of(latent)[1]
    return {
        "latent": latent,
        "density": len(value_E) / codes.num_rows,
        "max_strength": float(np.abs(value_E).max(initial=0.0)),
        "tokens": [{"id": token, "share": share} for token, share in fired_tokens(codes, places, latent, _TOKENS)],
        "top": [window(codes, places, latent, int(row)) for row in top],
        "random": [window(codes, places, latent, int(row)) for row in random],
    }


def _with_texts(feature: dict[str, Any], text_of: Callable[[int], str]) -> dict[str, Any]:
    """The same with the text of every token in place of its number."""
    for key in ("tokens", "promoted"):
        for entry in feature[key] or ():
            entry["text"] = text_of(entry.pop("id"))
    for context in [*feature["top"], *feature["random"]]:
        context["texts"] = [text_of(int(token)) for token in context.pop("ids")]
    return feature


def _card(feature: Mapping[str, Any]) -> Markup:
    facts = [f"fires on {percent(feature['density'])} of rows", f"strongest {number(feature['max_strength'])}"]
    lines = [paragraph(", ".join(facts), "note")]
    if not feature["top"]:
        lines = [paragraph("It does not fire on these rows.", "note")]
    words = [(entry["text"], percent(entry["share"])) for entry in feature["tokens"]]
    likelier = [(entry["text"], f"+{number(entry['logit'], 2)}") for entry in feature["promoted"] or ()]
    lines += [_words(title, pairs) for title, pairs in (("fires on", words), ("makes likelier", likelier)) if pairs]
    lines.append(_contexts(feature["top"], feature["max_strength"]))
    if feature["random"]:
        random = _contexts(feature["random"], feature["max_strength"])
        lines.append(Markup("<details><summary>random contexts</summary>{}</details>").format(random))
    return Markup('<article class="feature" id="latent-{0}"><h3>Latent {0}</h3>{1}</article>').format(
        feature["latent"], Markup("").join(lines)
    )


def _words(title: str, pairs: Sequence[tuple[str, str]]) -> Markup:
    """Tokens with a number each; their spaces are shown, since many tokens begin with one."""
    tokens = [(code(visible(text).replace(" ", "\u2423")), shown) for text, shown in pairs]
    words = Markup(", ").join(Markup("{} {}").format(*pair) for pair in tokens)
    return paragraph(Markup("{}: {}").format(title, words), "note")


def _contexts(contexts: Sequence[Mapping[str, Any]], largest: float) -> Markup:
    rows = (
        Markup('<li><span class="strength">{}</span><span class="tokens">{}</span></li>').format(
            number(context["strength"], 2), _tokens(context, largest)
        )
        for context in contexts
    )
    return Markup('<ol class="contexts">{}</ol>').format(Markup("").join(rows))


def _tokens(context: Mapping[str, Any], largest: float) -> Markup:
    """Tokens of a window; those on which the latent fires carry their strength."""
    pieces = []
    for place, (text, strength) in enumerate(zip(context["texts"], context["strengths"], strict=True)):
        focus = Markup(' class="focus"') if place == context["focus"] else Markup("")
        if strength:
            share = min(1.0, abs(strength) / largest)
            pieces.append(
                Markup('<mark{} style="--s:{:.2f}" title="{}">{}</mark>').format(
                    focus, share, number(strength), visible(text)
                )
            )
        else:
            pieces.append(Markup("{}").format(visible(text)))
    return Markup("").join(pieces)


def visible(text: str) -> str:
    """A token with signs for line breaks and tabs, so that a context stays on one line."""
    return text.replace("\r", "").replace("\n", "\u21b5").replace("\t", "\u2192") or "\u2205"


ANALYSIS = Contexts()
